"""A demonstration of the resilient proxy, and the tools the tests and benchmarks share with it.

``python -m litellm_resilience.demo`` starts a fake OpenAI-compatible provider and a real proxy
with workers that restart often, sends a steady keep-alive load, closes the shared upstream session
on purpose, and reports what the clients saw.

Modules: ``provider`` (the upstream), ``load`` (the client), ``proxy`` (the child process),
``sabotage`` (faults inside a worker), ``console`` and ``summary`` (what is printed).
"""
