"""What the resilient proxy costs, measured against plain LiteLLM: ``python -m benchmarks``.

Modules: ``attach`` (the work done per request to attach the shared session), ``request``
(time per request of the application in one process), ``throughput`` (requests per second through a
real proxy), ``recycle`` (what clients see of recycling), ``plan`` (the planner against watched
workers), ``report`` (statistics and output), ``open_loop`` (requests at a fixed rate).
"""
