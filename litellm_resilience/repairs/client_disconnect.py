"""A client that hangs up ends its stream.

uvicorn below 0.32.1 declares ASGI 2.4, where `send` raises once the client is gone, but its `send`
returns silently (https://github.com/encode/uvicorn/pull/2513). Starlette believes it and stops
listening for the disconnect, so the proxy reads every abandoned stream to its end, holding a
connection to the provider all the while.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from typing import TYPE_CHECKING, Any

from litellm_resilience.repairs.base import Outcome, PatchState, require_async

if TYPE_CHECKING:
    from litellm_resilience.repairs.base import Context

CLAIM = '"spec_version": "2.4"'
LISTENING_VERSION = "2.3"


def apply(context: Context) -> Outcome:
    """Make streaming responses listen for the disconnect under such a uvicorn."""
    if not uvicorn_overclaims():
        return Outcome(PatchState.NOT_NEEDED, "this uvicorn does not claim ASGI 2.4")
    response_class = importlib.import_module("starlette.responses").StreamingResponse
    call = require_async(response_class, "__call__", "self", "scope", "receive", "send")

    @functools.wraps(call)
    async def listening_call(self: Any, scope: Any, receive: Any, send: Any) -> None:
        asgi = {**scope.get("asgi", {}), "spec_version": LISTENING_VERSION}
        await call(self, {**scope, "asgi": asgi}, receive, send)

    context.changes.replace(response_class, "__call__", listening_call)
    return Outcome(
        PatchState.APPLIED, "streams end when the client hangs up, not when they are read"
    )


def uvicorn_overclaims() -> bool:
    """Say whether uvicorn's HTTP protocol declares ASGI 2.4 without raising on a lost client."""
    protocol = importlib.import_module("uvicorn.protocols.http.h11_impl")
    try:
        return CLAIM in inspect.getsource(protocol)
    except OSError:
        return False
