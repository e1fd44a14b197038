"""Nobody but its owner closes the shared session.

Up to LiteLLM 1.81.12 every transport closes the session it holds, its own or not
(https://github.com/BerriAI/litellm/issues/21116), and a dropped `AsyncHTTPHandler` closes its
transport. From 1.81.13 a transport built the usual way knows that it does not own the session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litellm_resilience.repairs.base import Outcome, PatchState, require_async, require_parameters

if TYPE_CHECKING:
    from litellm_resilience.repairs.base import Context


def apply(context: Context) -> Outcome:
    """Make transports leave a shared session open."""
    if not context.has_shared_session:
        return Outcome(PatchState.NOT_NEEDED, "this LiteLLM has no shared session")
    keeper = context.keeper
    transport_class = context.transport.AiohttpTransport
    aclose = require_async(transport_class, "aclose", "self")

    async def guarded_aclose(self: Any) -> None:
        if not keeper.is_shared(self.client):
            await aclose(self)
        elif getattr(self, "_owns_session", True):
            keeper.prevent_close()

    context.changes.replace(transport_class, "aclose", guarded_aclose)
    recycling = _guard_recycling(context)
    return Outcome(PatchState.APPLIED, f"the shared session is spared by aclose{recycling}")


def _guard_recycling(context: Context) -> str:
    transport_class = context.transport.LiteLLMAiohttpTransport
    recycle = getattr(transport_class, "_close_recycled_session", None)
    if recycle is None:
        return ""
    require_parameters(recycle, "self", "session")
    keeper = context.keeper

    def guarded_recycle(self: Any, session: Any) -> None:
        if keeper.is_shared(session):
            keeper.prevent_close()
        else:
            recycle(self, session)

    context.changes.replace(transport_class, "_close_recycled_session", guarded_recycle)
    return " and _close_recycled_session"
