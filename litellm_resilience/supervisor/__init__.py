"""What recycles workers: limits and their jitter, no LiteLLM in here."""
