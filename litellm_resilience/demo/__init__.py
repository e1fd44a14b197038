"""A demonstration of the resilient proxy.

``python -m litellm_resilience.demo`` starts a fake OpenAI-compatible provider and a real proxy
with workers that restart often, sends a steady keep-alive load, closes the shared upstream session
on purpose, and reports what the clients saw.

Modules: ``provider`` (the upstream), ``load`` (the client), ``proxy`` (the child process),
``close_session`` (the fault inside a worker), ``lifetime`` (what is started and stopped),
``console`` and ``summary`` (what is printed). Tests and benchmarks build on them in
``tests/support``, which is not shipped.
"""
