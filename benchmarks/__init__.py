"""The resilient proxy against plain LiteLLM, measured side by side: ``python -m benchmarks``.

`evidence` runs everything; the other modules are listed in CONTRIBUTING.md.
"""
