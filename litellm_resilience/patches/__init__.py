"""What patches LiteLLM: one module per fault, each listed in `registry.PATCHES`."""
