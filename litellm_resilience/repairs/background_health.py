"""Deployments are probed once per interval, however many workers there are and begin.

With `background_health_checks` each worker of LiteLLM probes each deployment when it starts and at
each `health_check_interval`, and a probe is a paid call. Here the workers of one supervisor probe
in turns, and the others, and those that start, take over the results until the next ones are due.

What is shared is what LiteLLM keeps for `/health`, without the exceptions that it holds beside it,
as through Redis with its own `use_shared_health_check`. That remains LiteLLM's.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from litellm_resilience.repairs.base import (
    IncompatibleError,
    Outcome,
    PatchState,
    require,
    require_async,
    require_parameters,
)
from litellm_resilience.supervisor import scoreboard

if TYPE_CHECKING:
    import logging
    from types import ModuleType

    from litellm_resilience.repairs.base import Context
    from litellm_resilience.supervisor.note import Note

LOOP = "_run_background_health_check"
PROBE = "perform_health_check"
ROUTER_STATE = "_write_health_state_to_router_cache"
"""LiteLLM 1.84.0 and later: what the router may choose deployments by."""
POLL_SECONDS = 0.5


def apply(context: Context) -> Outcome:
    """Give workers turns, and those that start what the others have found."""
    server = context.proxy_server
    loop, probe = require_async(server, LOOP), require_async(server, PROBE, "model_list")
    require(server, "health_check_results", "health_check_interval", "llm_model_list")
    _require_use_of_probe(server, loop)
    if hasattr(server, ROUTER_STATE):
        require_parameters(
            getattr(server, ROUTER_STATE), "healthy_endpoints", "unhealthy_endpoints"
        )
    checks = _Checks(server, context.log)

    @functools.wraps(loop)
    async def continued(*args: Any, **kwargs: Any) -> Any:
        await checks.inherit()
        return await loop(*args, **kwargs)

    @functools.wraps(probe)
    async def in_turn(*args: Any, **kwargs: Any) -> Any:
        return await checks.in_turn(functools.partial(probe, *args, **kwargs))

    context.changes.replace(server, LOOP, continued)
    context.changes.replace(server, PROBE, in_turn)
    return Outcome(PatchState.APPLIED, "one supervised worker probes, the others take it over")


def _require_use_of_probe(server: ModuleType, loop: Any) -> None:
    """Check that the loop, or a function that it calls, looks `PROBE` up where it is replaced."""
    called = inspect.unwrap(loop).__code__.co_names
    helpers = [vars(server).get(name) for name in called]
    names = set(called).union(*(h.__code__.co_names for h in helpers if inspect.isfunction(h)))
    if PROBE not in names:
        raise IncompatibleError(f"{LOOP} does not call {PROBE}")


@dataclass(frozen=True)
class _Results:
    """What one round of probes has found.

    Attributes:
        probed: which deployments, by `_identity`.
        found: what `PROBE` has returned, exceptions left out.
        age: seconds since.
    """

    probed: frozenset[str]
    found: tuple[Any, ...]
    age: float


class _Checks:
    def __init__(self, server: Any, log: logging.Logger) -> None:
        self._server = server
        self._log = log
        self._too_large = False

    async def inherit(self) -> None:
        """Take over the results of a predecessor, and wait until the next ones are due."""
        note = _note()
        results = None if note is None else self._valid(note)
        if results is None:
            return
        healthy, unhealthy = results.found[:2]
        self._server.health_check_results.update(
            healthy_endpoints=healthy,
            unhealthy_endpoints=unhealthy,
            healthy_count=len(healthy),
            unhealthy_count=len(unhealthy),
        )
        if hasattr(self._server, ROUTER_STATE):
            getattr(self._server, ROUTER_STATE)(healthy, unhealthy)
        due = self._server.health_check_interval - results.age
        self._log.info("litellm-resilience: health checks taken over, next in %.0f s", due)
        await asyncio.sleep(due)

    async def in_turn(self, probe: Any) -> Any:
        """Probe, or return what another worker has found in the meantime."""
        note = _note()
        if note is None:
            return await probe()
        while True:
            results = self._valid(note)
            if results is not None:
                return results.found
            async with note.turn() as mine:
                # Whoever had the turn before may have written since the first look.
                if mine and self._valid(note) is None:
                    deployments = self._deployments()
                    found = await probe()
                    self._share(note, deployments, found)
                    return found
            await asyncio.sleep(POLL_SECONDS)

    def _valid(self, note: Note) -> _Results | None:
        """Return results that are not due yet, and of all deployments that this worker has."""
        interval = self._server.health_check_interval
        results = _read(note)
        if results is None or not isinstance(interval, int) or results.age >= interval:
            return None
        return results if self._deployments() <= results.probed else None

    def _deployments(self) -> frozenset[str]:
        return frozenset(map(_identity, self._server.llm_model_list or ()))

    def _share(self, note: Note, deployments: frozenset[str], found: Any) -> None:
        healthy, unhealthy, *exceptions = found
        content = {
            "probed": sorted(deployments),
            "found": [healthy, unhealthy, *({} for _ in exceptions)],
        }
        try:
            note.write(json.dumps(content, default=str).encode())
        except ValueError as error:
            if not self._too_large:
                self._log.warning(
                    "litellm-resilience: each worker probes its deployments itself, "
                    "the results are too large to share: %s",
                    error,
                )
            self._too_large = True


def _note() -> Note | None:
    entered = scoreboard.entered()
    return None if entered is None else entered[0].note


def _read(note: Note) -> _Results | None:
    written = note.read()
    if written is None:
        return None
    written_at, text = written
    content = json.loads(text)
    return _Results(
        frozenset(content["probed"]), tuple(content["found"]), time.monotonic() - written_at
    )


def _identity(deployment: dict[str, Any]) -> str:
    """Return what LiteLLM makes of a deployment's parameters, or its names."""
    made = (deployment.get("model_info") or {}).get("id")
    parameters = deployment.get("litellm_params") or {}
    return str(made or (deployment.get("model_name"), parameters.get("model")))
