"""Starts servers: one module for each that LiteLLM knows, and what their workers import."""
