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
from litellm_resilience.patches.base import Changes, Outcome, State
from litellm_resilience.supervisor.jitter import JitteredLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UVICORN_JITTER = "limit_max_requests_jitter"
NO_LIMIT = "--max_requests_jitter has no effect without --max_requests_before_restart."


@contextlib.contextmanager
def intercepted(jitter: int | None, other_server: str | None) -> Iterator[None]:
    """Serve patched, with the jitter, whichever server LiteLLM starts inside this context.

    Args:
        jitter: additional requests a worker may serve, at most.
        other_server: the flag of the server asked for instead of uvicorn, e.g. `run_gunicorn`.
    """
    changes = Changes()
    intercept = {
        None: _intercept_uvicorn,
        "run_gunicorn": _intercept_gunicorn,
        "run_hypercorn": _intercept_hypercorn,
        "run_granian": _intercept_granian,
    }[other_server]
    try:
        # A server that is not installed is LiteLLM's to report.
        with contextlib.suppress(ImportError):
            intercept(changes, jitter)
        yield
    finally:
        changes.undo()
        os.environ.pop(asgi.TARGET_VARIABLE, None)


def warn(message: str) -> None:
    """Log a warning the way LiteLLM's proxy logs, JSON included."""
    importlib.import_module("litellm._logging").verbose_proxy_logger.warning(
        "litellm-resilience: %s", message
    )


def _intercept_uvicorn(changes: Changes, jitter: int | None) -> None:
    import uvicorn

    original = uvicorn.run

    def run(*args: Any, **kwargs: Any) -> Any:
        # LiteLLM's metrics server passes an object; the proxy is always an import string.
        if isinstance(kwargs.get("app"), str):
            kwargs = uvicorn_arguments(kwargs, jitter)
        return original(*args, **kwargs)

    changes.replace(uvicorn, "run", run)


def uvicorn_arguments(arguments: dict[str, Any], jitter: int | None) -> dict[str, Any]:
    """Return what `uvicorn.run` is called with, given what LiteLLM wanted to call it with."""
    changed = dict(arguments)
    mark = asgi.FACTORY_MARK if changed.get("factory") else ""
    os.environ[asgi.TARGET_VARIABLE] = changed["app"] + mark
    changed |= {"app": f"{asgi.__name__}:{asgi.create_app.__name__}", "factory": True}
    limit = changed.get("limit_max_requests")
    if limit is None:
        if jitter is not None:
            warn(NO_LIMIT)
        return changed
    _warn_of_missing_replacement(limit, changed.get("workers") or 1)
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


def uvicorn_replaces_workers() -> bool:
    """Say whether uvicorn's supervisor replaces a worker that has exited (0.30.0 and later)."""
    from uvicorn.supervisors import Multiprocess

    return hasattr(Multiprocess, "keep_subprocess_alive")


def _warn_of_missing_replacement(limit: int, workers: int) -> None:
    helpers = importlib.import_module("litellm.proxy.proxy_cli").ProxyInitializationHelpers
    if workers <= 1 and not hasattr(helpers, "single_worker_max_requests_warning"):
        warn(
            f"--max_requests_before_restart {limit} with one worker: after {limit} requests the "
            "process exits and nothing here starts it again. Use --num_workers 2 or more."
        )
    elif workers > 1 and not uvicorn_replaces_workers():
        warn(
            f"--max_requests_before_restart {limit} with this uvicorn: it never replaces a worker "
            f"that has exited, so the service ends once all {workers} have. "
            "Use uvicorn 0.30 or later, or --run_gunicorn."
        )


def _intercept_gunicorn(changes: Changes, jitter: int | None) -> None:
    from gunicorn.app.base import BaseApplication

    original: Callable[..., Any] = BaseApplication.run

    def run(self: Any) -> Any:
        install()
        if jitter is not None and not self.cfg.max_requests:
            warn(NO_LIMIT)
        elif jitter is not None:
            self.cfg.set("max_requests_jitter", jitter)
        return original(self)

    changes.replace(BaseApplication, "run", run)


def _warn_of_unsupported(server: str, jitter: int | None) -> None:
    if jitter is not None:
        warn(f"--max_requests_jitter has no effect with {server}, which has no request limit.")


def _intercept_hypercorn(changes: Changes, jitter: int | None) -> None:
    import hypercorn.asyncio

    original = hypercorn.asyncio.serve

    def serve(*args: Any, **kwargs: Any) -> Any:
        install()
        _warn_of_unsupported("hypercorn", jitter)
        return original(*args, **kwargs)

    changes.replace(hypercorn.asyncio, "serve", serve)


def _intercept_granian(changes: Changes, jitter: int | None) -> None:
    import granian

    original = granian.Granian

    def patched(*args: Any, **kwargs: Any) -> Any:
        _warn_of_unsupported("granian", jitter)
        os.environ[asgi.TARGET_VARIABLE] = kwargs["target"]
        return original(*args, **(kwargs | {"target": f"{asgi.__name__}:app"}))

    changes.replace(granian, "Granian", patched)


def outcomes() -> dict[str, Outcome]:
    """Say how each server gets the jitter, for the doctor."""
    from litellm_resilience.versions import installed

    native = Outcome(State.NATIVE, f"passed to uvicorn.run as {UVICORN_JITTER}")
    ours = Outcome(State.APPLIED, "this uvicorn has no jitter: drawn by us in each worker")
    absent = Outcome(State.NOT_NEEDED, "gunicorn is not installed")
    gunicorn = Outcome(State.APPLIED, "passed to gunicorn as max_requests_jitter")
    return {
        "uvicorn-jitter": native if uvicorn_has_jitter() else ours,
        "gunicorn-jitter": gunicorn if installed("gunicorn") else absent,
    }
