"""The ordered list of patches, and applying and removing them all."""

from __future__ import annotations

import importlib
import os
import threading
from typing import TYPE_CHECKING, Any

from litellm_resilience.records.flush import Flush
from litellm_resilience.repairs import (
    background_health,
    batch_loggers,
    cached_clients,
    callbacks,
    client_disconnect,
    finalizers,
    lifecycle,
    metrics,
    ownership,
    reports,
    shared_session,
    spend,
    stream_release,
    telemetry,
    worker_end,
)
from litellm_resilience.repairs.base import (
    Changes,
    Context,
    IncompatibleError,
    Outcome,
    Patch,
    PatchState,
    first_name,
)
from litellm_resilience.session.keeper import Counters, SessionKeeper
from litellm_resilience.supervisor.figures import NOTHING_HELD, Held

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from types import ModuleType

    from aiohttp import ClientSession

DISABLE_VARIABLE = "LITELLM_RESILIENCE_DISABLE"

PATCHES: tuple[Patch, ...] = (
    Patch("metrics", "prometheus_client", metrics.apply),
    Patch("finalizers", "gc.callbacks", finalizers.apply),
    Patch("session-ownership", "AiohttpTransport.aclose", ownership.apply),
    Patch("cached-clients", "LiteLLMAiohttpTransport.handle_async_request", cached_clients.apply),
    Patch("stream-release", "AiohttpResponseStream", stream_release.apply),
    Patch("client-disconnect", "StreamingResponse.__call__", client_disconnect.apply),
    Patch("callbacks", "GLOBAL_LOGGING_WORKER", callbacks.apply),
    Patch("batch-loggers", "CustomBatchLogger", batch_loggers.apply),
    Patch("spend", "update_spend", spend.apply),
    Patch("spend-sidecar", "SpendEventProducer", spend.apply_sidecar),
    Patch("telemetry", "TracerProvider", telemetry.apply),
    # Before session-lifecycle, so that the session lives while records are flushed.
    Patch("worker-flush", "proxy_startup_event", worker_end.apply),
    Patch("session-lifecycle", "proxy_startup_event", lifecycle.apply),
    Patch(
        "shared-session",
        "add_shared_session_to_data",
        shared_session.apply,
        # Recreating without the guard kills the requests in flight: 27 % errors on 1.81.12.
        requires=("session-ownership",),
    ),
    Patch(
        "awaited-attach",
        "route_request",
        shared_session.apply_await,
        requires=("shared-session",),
    ),
    Patch("background-health", "_run_background_health_check", background_health.apply),
    Patch("reports", "SlackAlerting", reports.apply),
)

SUPERVISOR = "worker-supervisor"
GUNICORN_DRAIN = "gunicorn-drain"
BALANCED_ACCEPT = "balanced-accept"
SERVER_PATCHES = (SUPERVISOR, GUNICORN_DRAIN, BALANCED_ACCEPT)
"""What is done to servers by the command, and can be left out under these names."""

Report = dict[str, Outcome]
"""What became of each patch, by its name, in the order of `PATCHES`."""

SATISFIED = (PatchState.APPLIED, PatchState.NATIVE, PatchState.NOT_NEEDED)


class ModuleSlot:
    """The global `shared_aiohttp_session` of LiteLLM's proxy server, and its initialiser.

    Both are looked up in the module at each call, so that whoever replaces them is heard.
    """

    def __init__(self, proxy_server: ModuleType) -> None:
        self._server: Any = proxy_server

    def get(self) -> ClientSession | None:
        """Return the global shared session."""
        session: ClientSession | None = self._server.shared_aiohttp_session
        return session

    def put(self, session: ClientSession) -> None:
        """Replace the global shared session."""
        self._server.shared_aiohttp_session = session

    async def create(self) -> ClientSession | None:
        """Run LiteLLM's own initialiser."""
        name = first_name(self._server, *lifecycle.INITIALISERS)
        session: ClientSession | None = await getattr(self._server, name)()
        return session


class _Installation:
    """What one `install` did, to be taken back by `uninstall`."""

    def __init__(self) -> None:
        self.changes = Changes()
        self.report: Report = {}
        self.keeper: SessionKeeper | None = None
        self.flush: Flush | None = None


_guard = threading.RLock()
_active: _Installation | None = None


def disabled_patches() -> frozenset[str]:
    """Return the patch names listed in `LITELLM_RESILIENCE_DISABLE`.

    Raises:
        ValueError: if the variable names a patch that does not exist.
    """
    names = {name.strip() for name in os.environ.get(DISABLE_VARIABLE, "").split(",")} - {""}
    allowed = (*(patch.name for patch in PATCHES), *SERVER_PATCHES)
    unknown = sorted(names.difference(allowed))
    if unknown:
        raise ValueError(
            f"{DISABLE_VARIABLE} names unknown patches: {', '.join(unknown)}. "
            f"Known: {', '.join(allowed)}."
        )
    return frozenset(names)


def server_outcome(name: str, probe: Callable[[], None], effect: str) -> Outcome:
    """Say what becomes of one of `SERVER_PATCHES`.

    Args:
        name: which one.
        probe: raises `IncompatibleError` if it does not fit.
        effect: what it does where it is applied.
    """
    if name in disabled_patches():
        return _disabled()
    try:
        probe()
    except IncompatibleError as error:
        return Outcome(PatchState.INCOMPATIBLE, str(error))
    return Outcome(PatchState.APPLIED, effect)


def _disabled() -> Outcome:
    return Outcome(PatchState.DISABLED, f"named in {DISABLE_VARIABLE}")


def install() -> Report:
    """Apply all patches in this process; see `litellm_resilience.install`."""
    global _active  # noqa: PLW0603
    with _guard:
        if _active is None:
            _active = _apply_all()
        return dict(_active.report)


def uninstall() -> None:
    """Take all patches back; see `litellm_resilience.uninstall`."""
    global _active
    with _guard:
        if _active is None:
            return
        installation, _active = _active, None
        foreign = installation.changes.undo()
        if installation.keeper is not None:
            installation.keeper.release()
    if foreign:
        _log().warning(
            "litellm-resilience: left in place, replaced by somebody else since: %s",
            ", ".join(foreign),
        )


def counters() -> Counters:
    """Return the shared session's counters; see `litellm_resilience.stats`."""
    with _guard:
        if _active is None or _active.keeper is None:
            return Counters()
        return _active.keeper.counters


def held(besides: Collection[Any] | None) -> Held:
    """Return what this process has to do beside requests; to be called in its event loop.

    Args:
        besides: the tasks of requests; None not to look for tasks.
    """
    flush = None if _active is None else _active.flush
    if flush is None:
        return NOTHING_HELD
    tasks = 0 if besides is None else len(flush.tasks(besides)[0])
    return Held(tasks, flush.held())


def _log() -> Any:
    return importlib.import_module("litellm._logging").verbose_proxy_logger


def _apply_all() -> _Installation:
    installation = _Installation()
    server = importlib.import_module("litellm.proxy.proxy_server")
    log = _log()
    installation.keeper = SessionKeeper(ModuleSlot(server), log)
    installation.flush = Flush(log)
    context = Context(
        proxy_server=server,
        route_llm_request=importlib.import_module("litellm.proxy.route_llm_request"),
        transport=importlib.import_module("litellm.llms.custom_httpx.aiohttp_transport"),
        http_handler=importlib.import_module("litellm.llms.custom_httpx.http_handler"),
        keeper=installation.keeper,
        flush=installation.flush,
        log=log,
        changes=installation.changes,
    )
    try:
        disabled = disabled_patches()
    except ValueError as error:
        log.warning("litellm-resilience: %s", error)
        disabled = frozenset()
    for patch in PATCHES:
        outcome = _apply(patch, context, disabled, installation.report)
        installation.report[patch.name] = outcome
        if outcome.state is PatchState.INCOMPATIBLE:
            log.warning(
                "litellm-resilience: patch %s skipped, it does not fit this LiteLLM: %s",
                patch.name,
                outcome.reason,
            )
    return installation


def _apply(patch: Patch, context: Context, disabled: frozenset[str], done: Report) -> Outcome:
    if patch.name in disabled:
        return _disabled()
    missing = [name for name in patch.requires if done[name].state not in SATISFIED]
    if missing:
        return Outcome(PatchState.DISABLED, f"unsafe without {', '.join(missing)}")
    mark = context.changes.mark()
    try:
        return patch.apply(context)
    except IncompatibleError as error:
        reason = str(error)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    context.changes.undo(mark)
    return Outcome(PatchState.INCOMPATIBLE, reason)
