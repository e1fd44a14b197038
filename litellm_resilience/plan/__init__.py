"""`litellm-resilient --plan`: what recycling costs, before it is tried in production.

Standard library only: a plan is made on a laptop without LiteLLM, unless it has to measure how long
this install's LiteLLM boots.
"""
