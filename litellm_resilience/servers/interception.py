"""The server that LiteLLM's command starts, intercepted at the call that starts it.

LiteLLM looks each server up when it is about to serve, which is the one place that has stayed the
same in all its versions.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
from typing import TYPE_CHECKING

from litellm_resilience.repairs import metric_places, registry
from litellm_resilience.repairs.base import Changes, IncompatibleError, Outcome, PatchState
from litellm_resilience.servers import (
    application,
    companions,
    granian,
    gunicorn,
    hypercorn,
    supervised,
    uvicorn,
)
from litellm_resilience.servers.supervised import Supervision

if TYPE_CHECKING:
    from collections.abc import Iterator

    import click


def native_command() -> click.Command:
    """Return LiteLLM's own `run_server` command.

    Raises:
        ImportError: if LiteLLM or what its proxy needs is not installed.
    """
    command: click.Command = importlib.import_module("litellm.proxy.proxy_cli").run_server
    return command


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
        None: uvicorn.intercept,
        "run_gunicorn": gunicorn.intercept,
        "run_hypercorn": hypercorn.intercept,
        "run_granian": granian.intercept,
    }[other_server]
    try:
        # A server that is not installed is LiteLLM's to report.
        with contextlib.suppress(ImportError):
            intercept(changes, jitter, supervision)
        for prepare in (
            metric_places.spare_those_in_use,
            companions.hand_down_metrics,
            companions.move_pgbouncer,
        ):
            with contextlib.suppress(ImportError, IncompatibleError):
                prepare(changes)
        yield
    finally:
        changes.undo()
        os.environ.pop(application.TARGET_VARIABLE, None)


def outcomes() -> dict[str, Outcome]:
    """Say what is done to each server, for the doctor."""
    native = Outcome(PatchState.NATIVE, f"passed to uvicorn.run as {uvicorn.JITTER}")
    ours = Outcome(PatchState.APPLIED, "this uvicorn has no jitter: drawn by us for each worker")
    absent = Outcome(PatchState.NOT_NEEDED, "gunicorn is not installed")
    passed = Outcome(PatchState.APPLIED, "passed to gunicorn as max_requests_jitter")
    return {
        registry.SUPERVISOR: supervised.outcome(),
        registry.GUNICORN_DRAIN: gunicorn.outcome(),
        registry.BALANCED_ACCEPT: supervised.accept_outcome(),
        "uvicorn-jitter": native if uvicorn.has_jitter() else ours,
        "gunicorn-jitter": passed if importlib.util.find_spec("gunicorn") else absent,
    }
