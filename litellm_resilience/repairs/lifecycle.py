"""Notice when LiteLLM creates and closes the shared session.

The owner is LiteLLM's lifespan: it calls the initialiser near the end of start-up and closes the
session at shut-down. In between the keeper may recreate; after that it must not.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

from litellm_resilience.repairs.base import Outcome, PatchState, first_name, require, require_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from litellm_resilience.repairs.base import Context

INITIALISERS = ("initialize_shared_aiohttp_session", "_initialize_shared_aiohttp_session")


def apply(context: Context) -> Outcome:
    """Watch the initialiser, the lifespan and its last step."""
    if not context.has_shared_session:
        return Outcome(PatchState.NOT_NEEDED, "this LiteLLM has no shared session")
    _watch_initialiser(context)
    _watch_lifespan(context)
    # Covers an `install` after the lifespan began (`LITELLM_WORKER_STARTUP_HOOKS`).
    server, keeper = context.proxy_server, context.keeper
    context.changes.precede(server, "proxy_shutdown_event", keeper.aclose)
    return Outcome(PatchState.APPLIED, "start-up is watched, nothing is recreated after shut-down")


def _watch_initialiser(context: Context) -> None:
    server, keeper = context.proxy_server, context.keeper
    initialise = require_async(server, first_name(server, *INITIALISERS))

    @functools.wraps(initialise)
    async def watched(*args: Any, **kwargs: Any) -> Any:
        session = await initialise(*args, **kwargs)
        if not keeper.creating:
            keeper.start_up(session)
        return session

    for name in INITIALISERS:
        if hasattr(server, name):
            context.changes.replace(server, name, watched)


def _watch_lifespan(context: Context) -> None:
    require(context.proxy_server, "app")
    router = context.proxy_server.app.router
    require(router, "lifespan_context")
    lifespan = router.lifespan_context
    keeper = context.keeper

    @contextlib.asynccontextmanager
    async def watched(app: Any) -> AsyncIterator[Any]:
        keeper.start()
        try:
            async with lifespan(app) as state:
                try:
                    yield state
                finally:
                    keeper.stop()
        finally:
            await keeper.aclose()

    context.changes.replace(router, "lifespan_context", watched)
