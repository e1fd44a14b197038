"""What the resilient proxy costs, measured against plain LiteLLM: ``python -m benchmarks``.

Modules: ``attach`` (the work done per request to attach the shared session), ``request``
(time per request of the application in one process), ``throughput`` (requests per second through a
real proxy), ``report`` (statistics and output).
"""
