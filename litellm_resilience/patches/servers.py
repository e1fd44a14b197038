"""The servers that LiteLLM's command starts, intercepted at the call that starts them.

LiteLLM looks each of them up when it is about to serve, which is the one place that has stayed
the same in all its versions.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
from typing import TYPE_CHECKING, Any

from litellm_resilience import asgi, install
from litellm_resilience.patches import gunicorn, notices, registry, workers
from litellm_resilience.patches.base import Changes, Outcome, State
from litellm_resilience.patches.host import LiteLLMHost
from litellm_resilience.patches.workers import Supervision
from litellm_resilience.supervisor.jitter import JitteredLimit

if TYPE_CHECKING:
    from collections.abc import Iterator

UVICORN_JITTER = "limit_max_requests_jitter"
SINGLE_WORKER_WARNING = "single_worker_max_requests_warning"


@contextlib.contextmanager
def intercepted(
    jitter: int | None, other_server: str | None, supervision: Supervision | None = None
) -> Iterator[None]:
    """Serve patched, with the jitter, whichever server LiteLLM starts inside this context.

    Args:
        jitter: additional requests a worker may serve, at most.
        other_server: the flag of the server asked for instead of uvicorn, e.g. `run_gunicorn`.
        supervision: how workers are supervised where that is ours to do.
    """
    supervision = supervision or Supervision()
    changes = Changes()
    intercept = {
        None: _intercept_uvicorn,
        "run_gunicorn": gunicorn.intercept,
        "run_hypercorn": _intercept_hypercorn,
        "run_granian": _intercept_granian,
    }[other_server]
    try:
        # A server that is not installed is LiteLLM's to report.
        with contextlib.suppress(ImportError):
            intercept(changes, jitter, supervision)
        yield
    finally:
        changes.undo()
        os.environ.pop(asgi.TARGET_VARIABLE, None)


def _intercept_uvicorn(changes: Changes, jitter: int | None, supervision: Supervision) -> None:
    import uvicorn

    original = uvicorn.run

    def run(*args: Any, **kwargs: Any) -> Any:
        supervision.imports_done()
        # LiteLLM's metrics server passes an object; the proxy is always an import string.
        if isinstance(kwargs.get("app"), str):
            kwargs = uvicorn_arguments(kwargs, jitter)
            if supervision.wanted(kwargs):
                _supervise(changes, supervision)
            else:
                how = "--reload" if kwargs.get("reload") else "one worker that has no limit"
                notices.warn_of_ineffective(how, supervision.given)
        return original(*args, **kwargs)

    changes.replace(uvicorn, "run", run)
    if workers.outcome().state is State.APPLIED:
        _drop_single_worker_warning(changes)


def _drop_single_worker_warning(changes: Changes) -> None:
    """Keep LiteLLM 1.108.0 and later from warning of an exit that does not happen here."""
    helpers = importlib.import_module("litellm.proxy.proxy_cli").ProxyInitializationHelpers
    if hasattr(helpers, SINGLE_WORKER_WARNING):
        changes.replace(helpers, SINGLE_WORKER_WARNING, staticmethod(lambda **_: None))


def _supervise(changes: Changes, supervision: Supervision) -> None:
    outcome = workers.outcome()
    if outcome.state is State.APPLIED:
        workers.intercept(changes, supervision, LiteLLMHost(supervision.reads))
    else:
        notices.warn(
            f"Workers are not supervised, recycling them costs requests: {outcome.reason}."
        )


def uvicorn_arguments(arguments: dict[str, Any], jitter: int | None) -> dict[str, Any]:
    """Return what `uvicorn.run` is called with, given what LiteLLM wanted to call it with."""
    changed = dict(arguments)
    mark = asgi.FACTORY_MARK if changed.get("factory") else ""
    os.environ[asgi.TARGET_VARIABLE] = changed["app"] + mark
    changed |= {"app": f"{asgi.__name__}:{asgi.create_app.__name__}", "factory": True}
    limit = changed.get("limit_max_requests")
    if limit is None:
        if jitter is not None:
            notices.warn(notices.NO_LIMIT)
        return changed
    return changed if jitter is None else changed | recycling_arguments(limit, jitter)


def recycling_arguments(limit: int, jitter: int) -> dict[str, Any]:
    """Return the arguments of `uvicorn.run` that give each worker a limit of its own."""
    if uvicorn_has_jitter():
        return {"limit_max_requests": limit, UVICORN_JITTER: jitter}
    return {"limit_max_requests": JitteredLimit(limit, jitter)}


def uvicorn_has_jitter() -> bool:
    """Say whether uvicorn takes a jitter itself (0.41.0 and later)."""
    import uvicorn

    return UVICORN_JITTER in inspect.signature(uvicorn.Config.__init__).parameters


def _warn_of_unsupported(server: str, jitter: int | None, supervision: Supervision) -> None:
    if jitter is not None:
        notices.warn(
            f"--max_requests_jitter has no effect with {server}, which has no request limit."
        )
    notices.warn_of_ineffective(server, supervision.given)


def _intercept_hypercorn(changes: Changes, jitter: int | None, supervision: Supervision) -> None:
    import hypercorn.asyncio

    original = hypercorn.asyncio.serve

    def serve(*args: Any, **kwargs: Any) -> Any:
        supervision.imports_done()
        install()
        _warn_of_unsupported("hypercorn", jitter, supervision)
        return original(*args, **kwargs)

    changes.replace(hypercorn.asyncio, "serve", serve)


def _intercept_granian(changes: Changes, jitter: int | None, supervision: Supervision) -> None:
    import granian

    original = granian.Granian

    def patched(*args: Any, **kwargs: Any) -> Any:
        supervision.imports_done()
        _warn_of_unsupported("granian", jitter, supervision)
        os.environ[asgi.TARGET_VARIABLE] = kwargs["target"]
        return original(*args, **(kwargs | {"target": f"{asgi.__name__}:app"}))

    changes.replace(granian, "Granian", patched)


def outcomes() -> dict[str, Outcome]:
    """Say what is done to each server, for the doctor."""
    from litellm_resilience.versions import installed

    native = Outcome(State.NATIVE, f"passed to uvicorn.run as {UVICORN_JITTER}")
    ours = Outcome(State.APPLIED, "this uvicorn has no jitter: drawn by us for each worker")
    absent = Outcome(State.NOT_NEEDED, "gunicorn is not installed")
    passed = Outcome(State.APPLIED, "passed to gunicorn as max_requests_jitter")
    return {
        registry.SUPERVISOR: workers.outcome(),
        registry.GUNICORN_DRAIN: gunicorn.outcome(),
        "uvicorn-jitter": native if uvicorn_has_jitter() else ours,
        "gunicorn-jitter": passed if installed("gunicorn") else absent,
    }
