"""LiteLLM's proxy for the supervisor: loaded once before workers are forked, and its log."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING

from litellm_resilience.servers import application, inheritance
from litellm_resilience.servers.warmup import load_modules, warm_up
from litellm_resilience.supervisor import preload

if TYPE_CHECKING:
    from collections.abc import Collection

    from litellm_resilience.supervisor.environment import ImportReads

REAPER_THREAD = "litellm-orphan-query-engine-reaper"
"""LiteLLM 1.106.0 and later (litellm/proxy/db/query_engine_reaper.py): sleeps between two looks at
/proc, and holds no lock that a worker needs."""

ALSO_APPLIED_HERE = frozenset({"JSON_LOGS", "LITELLM_SUPPRESS_STARTUP_OUTPUT"})
"""What LiteLLM 1.108.0 and later sets for spawned workers to read when they import it; its command
applies the same to its own process, which forked workers inherit (litellm/proxy/proxy_cli.py)."""


class LiteLLMHost:
    """LiteLLM's proxy.

    Args:
        reads: what modules have read of the environment, if that was watched.
        modules: names of modules to load besides, for what is configured later.
    """

    def __init__(self, reads: ImportReads | None = None, modules: Collection[str] = ()) -> None:
        self._reads = reads
        self._modules = tuple(modules)

    def log(self) -> logging.Logger:
        """Return a logger that writes as LiteLLM's proxy does, JSON included, from INFO on.

        LiteLLM's own loggers say nothing at INFO unless asked to; what happens to workers is said
        always, as uvicorn does. Handlers belong to the parent logger.
        """
        parent = importlib.import_module("litellm._logging").verbose_proxy_logger
        log = logging.getLogger(f"{parent.name}.workers")
        log.setLevel(logging.INFO)
        log.disabled = False
        return log

    def preload(self, workers: int) -> str | None:
        """Load and warm up the patched proxy; say why workers should not be forked, if so."""
        inheritance.watch()
        app = application.create_app()
        reason = _reserve_for_forking() or self._obstacle()
        if reason is not None:
            return reason
        warm_up(app, workers)
        for problem in load_modules(self._modules):
            self.log().warning("%s", problem)
        reason = self._obstacle()
        if reason is not None:
            return f"after the warm-up {reason}"
        inheritance.prepare(self.log())
        return None

    def own(self, slot: int) -> None:
        """Give a forked worker its own of what was made once."""
        inheritance.make_own(f"the worker in slot {slot}", self.log())

    def for_template(self) -> LiteLLMHost:
        """Return a host for a template, whose environment is complete before it imports."""
        return LiteLLMHost(modules=self._modules)

    def _obstacle(self) -> str | None:
        stale = [] if self._reads is None else self._reads.stale()
        return preload.obstacle(set(stale) - ALSO_APPLIED_HERE, {REAPER_THREAD})


def _reserve_for_forking() -> str | None:
    """Keep LiteLLM's Rust extension from starting threads here, if there is one.

    They would not live on in a forked worker, where every native call would then fail:
    litellm/rust_bridge/fork_guard.py.
    """
    try:
        guard = importlib.import_module("litellm.rust_bridge.fork_guard")
    except ImportError:
        return None
    try:
        guard.reserve_process_for_forking("the supervisor")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
