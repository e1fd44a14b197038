"""uvicorn: the patched application, a jitter on every version, and our supervisor."""

from __future__ import annotations

import importlib
import inspect
import os
from typing import TYPE_CHECKING, Any

from litellm_resilience.repairs.base import PatchState
from litellm_resilience.servers import application, inheritance, notices, supervised
from litellm_resilience.servers.host import LiteLLMHost
from litellm_resilience.supervisor.jitter import JitteredLimit

if TYPE_CHECKING:
    from litellm_resilience.repairs.base import Changes
    from litellm_resilience.servers.supervised import Supervision

JITTER = "limit_max_requests_jitter"
SINGLE_WORKER_WARNING = "single_worker_max_requests_warning"


def intercept(changes: Changes, jitter: int | None, supervision: Supervision) -> None:
    """Prepare what LiteLLM starts with uvicorn from now on."""
    import uvicorn

    original = uvicorn.run

    def run(*args: Any, **kwargs: Any) -> Any:
        supervision.imports_done()
        # LiteLLM's metrics server passes an object; the proxy is always an import string.
        if isinstance(kwargs.get("app"), str):
            kwargs = serving_arguments(kwargs, jitter)
            if supervision.wanted(kwargs):
                _supervise(changes, supervision)
            else:
                inheritance.stop()
                how = "--reload" if kwargs.get("reload") else "one worker that has no limit"
                notices.warn_of_ineffective(how, supervision.given)
        return original(*args, **kwargs)

    changes.replace(uvicorn, "run", run)
    if supervised.outcome().state is PatchState.APPLIED:
        _drop_single_worker_warning(changes)


def _drop_single_worker_warning(changes: Changes) -> None:
    """Keep LiteLLM 1.108.0 and later from warning of an exit that does not happen here."""
    helpers = importlib.import_module("litellm.proxy.proxy_cli").ProxyInitializationHelpers
    if hasattr(helpers, SINGLE_WORKER_WARNING):
        changes.replace(helpers, SINGLE_WORKER_WARNING, staticmethod(lambda **_: None))


def _supervise(changes: Changes, supervision: Supervision) -> None:
    outcome = supervised.outcome()
    if outcome.state is PatchState.APPLIED:
        supervised.intercept(
            changes, supervision, LiteLLMHost(supervision.reads, supervision.preload_modules)
        )
    else:
        notices.warn(
            f"Workers are not supervised, recycling them costs requests: {outcome.reason}."
        )


def serving_arguments(arguments: dict[str, Any], jitter: int | None) -> dict[str, Any]:
    """Return what `uvicorn.run` is called with, given what LiteLLM wanted to call it with."""
    changed = dict(arguments)
    mark = application.FACTORY_MARK if changed.get("factory") else ""
    os.environ[application.TARGET_VARIABLE] = changed["app"] + mark
    changed |= {"app": f"{application.__name__}:{application.create_app.__name__}", "factory": True}
    limit = changed.get("limit_max_requests")
    if limit is None:
        if jitter is not None:
            notices.warn(notices.NO_LIMIT)
        return changed
    return changed if jitter is None else changed | recycling_arguments(limit, jitter)


def recycling_arguments(limit: int, jitter: int) -> dict[str, Any]:
    """Return the arguments of `uvicorn.run` that give each worker a limit of its own."""
    if has_jitter():
        return {"limit_max_requests": limit, JITTER: jitter}
    return {"limit_max_requests": JitteredLimit(limit, jitter)}


def has_jitter() -> bool:
    """Say whether uvicorn takes a jitter itself (0.41.0 and later)."""
    import uvicorn

    return JITTER in inspect.signature(uvicorn.Config.__init__).parameters
