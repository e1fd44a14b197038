"""A cached client follows the shared session.

LiteLLM caches handlers whose transports hold the session they were built with. When that session
has died, or the request runs on another event loop, each would make a private session (up to
1.95.1 one without LiteLLM's connector settings, which nobody closes) and never look at the shared
one again. Here a transport that was built on the shared session always carries its next request
over the current one.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import TYPE_CHECKING, Any

from aiohttp import ClientSession

from litellm_resilience.repairs.base import (
    Outcome,
    PatchState,
    first_name,
    log_unexpected,
    require_async,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from litellm_resilience.repairs.base import Context
    from litellm_resilience.session.keeper import SessionKeeper

    PrivateFactory = Callable[[Any], ClientSession]

BORROWED_FLAG = "_litellm_resilience_borrows"


def apply(context: Context) -> Outcome:
    """Move transports built on the shared session to the current one before each request."""
    if not context.has_shared_session:
        return Outcome(PatchState.NOT_NEEDED, "this LiteLLM has no shared session")
    transport_class = context.transport.LiteLLMAiohttpTransport
    handle = require_async(transport_class, "handle_async_request", "self", "request")
    keeper, log = context.keeper, context.log
    make_private = _private_session_factory(context)

    @functools.wraps(handle)
    async def handle_async_request(self: Any, request: Any) -> Any:
        try:
            if self.client is not keeper.current():
                await _rehome(self, keeper, make_private)
        except Exception:
            log_unexpected(log)
        return await handle(self, request)

    context.changes.replace(transport_class, "handle_async_request", handle_async_request)
    _protect_lookup(context, make_private)
    return Outcome(PatchState.APPLIED, "transports look up the shared session before each request")


async def _rehome(transport: Any, keeper: SessionKeeper, make_private: PrivateFactory) -> None:
    """Move a transport that borrows the shared session to the current one, if there is one."""
    if keeper.is_shared(transport.client):
        setattr(transport, BORROWED_FLAG, True)
    elif not getattr(transport, BORROWED_FLAG, False):
        return
    shared = await keeper.ensure()
    held = transport.client
    if shared is None:
        if keeper.is_shared(held) and not usable(held):
            _hold(transport, make_private(transport), owned=True)
    elif shared is not held:
        _hold(transport, shared, owned=False)
        if isinstance(held, ClientSession) and not keeper.is_shared(held):
            await keeper.retire(held)


def usable(session: ClientSession) -> bool:
    """Say whether a session can carry a request on the running loop."""
    return not session.closed and session._loop is asyncio.get_running_loop()


def _hold(transport: Any, session: ClientSession, *, owned: bool) -> None:
    transport.client = session
    if hasattr(transport, "_owns_session"):
        transport._owns_session = owned


def _private_session_factory(context: Context) -> PrivateFactory:
    handler = context.http_handler.AsyncHTTPHandler
    name = first_name(handler, "create_aiohttp_transport", "_create_aiohttp_transport")
    build = getattr(handler, name)
    ssl_parameters = {"ssl_verify", "ssl_context"} & set(inspect.signature(build).parameters)

    def make_private(transport: Any) -> ClientSession:
        factory = getattr(transport, "_client_factory", None)
        if factory is None or factory is ClientSession:
            verify = getattr(transport, "_ssl_verify", None)
            name = "ssl_verify" if isinstance(verify, bool) else "ssl_context"
            arguments = {name: verify} if name in ssl_parameters else {}
            factory = build(**arguments)._client_factory
        session: ClientSession = factory()
        return session

    return make_private


def _protect_lookup(context: Context, make_private: PrivateFactory) -> None:
    """Keep LiteLLM's own session check from closing a shared session of another loop.

    Up to 1.95.1 it closes whatever session it replaces, also one it does not own.
    """
    transport_class = context.transport.LiteLLMAiohttpTransport
    names = ("get_valid_client_session", "_get_valid_client_session")
    lookup = getattr(transport_class, first_name(transport_class, *names))
    keeper = context.keeper

    @functools.wraps(lookup)
    def get_valid_client_session(self: Any) -> ClientSession:
        held = self.client
        if keeper.is_shared(held) and not usable(held):
            setattr(self, BORROWED_FLAG, True)
            shared = keeper.current()
            if shared is not None:
                _hold(self, shared, owned=False)
            else:
                _hold(self, make_private(self), owned=True)
        session: ClientSession = lookup(self)
        return session

    for name in names:
        if hasattr(transport_class, name):
            context.changes.replace(transport_class, name, get_valid_client_session)
