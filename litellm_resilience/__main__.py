"""`python -m litellm_resilience` is `litellm-resilient`."""

from litellm_resilience.command.entry import main

if __name__ == "__main__":
    main()
