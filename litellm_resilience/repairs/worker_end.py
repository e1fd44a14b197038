"""A worker flushes what it holds after its last reply, while sessions and the database still live.

Whatever serves the application ends its lifespan at that time; LiteLLM's own shutdown comes after.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

from litellm_resilience.repairs.base import Outcome, PatchState, require
from litellm_resilience.supervisor import scoreboard
from litellm_resilience.supervisor.policy import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from litellm_resilience.records.flush import Flush
    from litellm_resilience.repairs.base import Context

TIMEOUT_VARIABLE = "WORKER_FLUSH_TIMEOUT"
"""Set by the option of the same name, and read in each worker, however it was started."""
DEFAULT_TIMEOUT = Settings.flush_timeout


def apply(context: Context) -> Outcome:
    """Flush when the lifespan ends, or at LiteLLM's own last step if it began before this."""
    end = _End(context.flush)
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        context.flush.work.started()
    _watch_lifespan(context, end)
    context.changes.precede(context.proxy_server, "proxy_shutdown_event", end.come)
    return Outcome(PatchState.APPLIED, "a worker flushes records after its last reply")


def _watch_lifespan(context: Context, end: _End) -> None:
    require(context.proxy_server, "app")
    router = context.proxy_server.app.router
    require(router, "lifespan_context")
    lifespan = router.lifespan_context

    @contextlib.asynccontextmanager
    async def flushed(app: Any) -> AsyncIterator[Any]:
        async with lifespan(app) as state:
            end.has_come = False
            context.flush.work.started()
            try:
                yield state
            finally:
                await end.come()

    context.changes.replace(router, "lifespan_context", flushed)


class _End:
    """The end of a worker, which comes once."""

    def __init__(self, flush: Flush) -> None:
        self._flush = flush
        self.has_come = False

    async def come(self) -> None:
        """Flush, and leave in the scoreboard what is lost."""
        if self.has_come:
            return
        self.has_come = True
        await self._flush.run(timeout())
        entered = scoreboard.entered()
        if entered is not None:
            board, slot = entered
            row = board.row(slot)
            row.hold({})
            row.lose(self._flush.lost)


def timeout() -> float:
    """Return the seconds that a flush may take."""
    try:
        return max(0.0, float(os.environ.get(TIMEOUT_VARIABLE, DEFAULT_TIMEOUT)))
    except ValueError:
        return DEFAULT_TIMEOUT
