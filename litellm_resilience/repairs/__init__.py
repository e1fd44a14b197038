"""Repairs LiteLLM: one module for each fault, each listed in `registry.PATCHES`."""
