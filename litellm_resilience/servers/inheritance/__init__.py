"""What a forked worker must have of its own, and gets here.

The process that forks looks once at what it has made: `watch` before LiteLLM is imported, `prepare`
before the first fork. Each worker only replaces the values, in `make_own`. A worker that is spawned
needs none of it; `tests/process/test_inherited.py` compares the two.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from litellm_resilience.servers.inheritance import (
    agents,
    clients,
    connections,
    generators,
    identities,
    telemetry,
)

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable

_identities = identities.Identities()
_generators = generators.Generators()
_resources = telemetry.Resources()
_new_relic = agents.NewRelic()


def watch() -> None:
    """Note what imports draw at random, and let New Relic wait.

    To be called before LiteLLM is imported.
    """
    _identities.watch()
    _generators.watch()
    _new_relic.hold()


def stop() -> None:
    """Stop watching and waiting, where nothing will be forked. Idempotent."""
    _identities.stop()
    _generators.stop()
    _new_relic.release()


def prepare(log: logging.Logger) -> None:
    """Find what each worker will have to replace. Raises nothing.

    To be called in the process that forks, when everything is loaded, before `share_memory`.

    Args:
        log: where a step that fails is reported.
    """
    _identities.forget()
    frozen = gc.get_freeze_count()
    gc.unfreeze()  # the garbage collector does not list frozen objects
    objects = gc.get_objects()
    _do(
        "prepare the workers for what they must not share",
        log,
        (
            lambda: _identities.find(objects),
            lambda: _generators.find(objects),
            lambda: _resources.find(objects),
            clients.forget_those_of_ended_loops,
        ),
    )
    objects.clear()
    if frozen:
        gc.freeze()


def make_own(slot_name: str, log: logging.Logger) -> None:
    """Give a forked worker its own of what `prepare` has found. Raises nothing.

    To be called in the worker's main thread before it serves.

    Args:
        slot_name: the worker's name for the log.
        log: where a step that fails is reported.
    """
    _do(
        f"give {slot_name} all that should be its own",
        log,
        (
            connections.forget_inherited,
            _identities.renew,
            _generators.reseed,
            _resources.renew,
            _new_relic.release,
        ),
    )


def _do(what: str, log: logging.Logger, steps: Iterable[Callable[[], None]]) -> None:
    failures = [failure for failure in map(_failure, steps) if failure]
    if failures:
        log.warning("Could not %s: %s", what, "; ".join(failures))


def _failure(step: Callable[[], None]) -> str | None:
    try:
        step()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
