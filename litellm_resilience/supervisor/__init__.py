"""Starts, watches, replaces and drains uvicorn workers; knows nothing of LiteLLM."""
