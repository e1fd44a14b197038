"""Attach the shared session to every request, recreating it first if it is dead.

Replaces `add_shared_session_to_data` (https://github.com/BerriAI/litellm/issues/23806). From
1.82.5 LiteLLM's own recreates a closed session; it does not recover from a failed creation, from
another event loop, or inside cached clients.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from litellm_resilience.patches.base import (
    Outcome,
    State,
    log_unexpected,
    require_async,
    require_parameters,
)

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable, Generator

    from aiohttp import ClientSession

    from litellm_resilience.patches.base import Context
    from litellm_resilience.session.keeper import SessionKeeper

    Attach = Callable[[dict[str, Any]], Awaitable[None]]

NAME = "add_shared_session_to_data"
KEY = "shared_session"


def apply(context: Context) -> Outcome:
    """Replace `add_shared_session_to_data`."""
    if not context.has_shared_session:
        return Outcome(State.NOT_NEEDED, "this LiteLLM has no shared session")
    native = getattr(context.route_llm_request, NAME)
    require_parameters(native, "data")
    attach = asynchronous(context.keeper, context.log)
    if not inspect.iscoroutinefunction(native):
        attach = EagerAttach(context.keeper, context.log, attach)
    context.changes.replace_everywhere(context.route_llm_request, NAME, attach)
    return Outcome(State.APPLIED, "recreates under a lock when closed or bound to another loop")


def apply_await(context: Context) -> Outcome:
    """Heal before `route_request` where it calls `add_shared_session_to_data` without await."""
    if not context.has_shared_session:
        return Outcome(State.NOT_NEEDED, "this LiteLLM has no shared session")
    if not isinstance(getattr(context.route_llm_request, NAME), EagerAttach):
        return Outcome(State.NATIVE, "route_request awaits add_shared_session_to_data")
    keeper, log = context.keeper, context.log
    route = require_async(context.route_llm_request, "route_request", "data")

    @functools.wraps(route)
    async def route_request(*args: Any, **kwargs: Any) -> Any:
        try:
            if keeper.current() is None:
                await keeper.ensure()
        except Exception:
            log_unexpected(log)
        return await route(*args, **kwargs)

    context.changes.replace_everywhere(context.route_llm_request, "route_request", route_request)
    return Outcome(State.APPLIED, "route_request waits for a usable session first")


def asynchronous(keeper: SessionKeeper, log: logging.Logger) -> Attach:
    """Return the replacement for LiteLLM versions that await it."""

    async def add_shared_session_to_data(data: dict[str, Any]) -> None:
        """Attach a usable shared session; never fail the request.

        Args:
            data: the request; gets the key `shared_session` if there is a session to be had.
        """
        try:
            session = keeper.current()
            if session is None:
                session = await keeper.ensure()
        except Exception:
            log_unexpected(log)
        else:
            hand_over(session, data, log)

    return add_shared_session_to_data


def hand_over(session: ClientSession | None, data: dict[str, Any], log: logging.Logger) -> None:
    """Put the session into the request and say so."""
    if session is None:
        log.info("SESSION REUSE: No shared session available for this request")
    else:
        data[KEY] = session
        log.info("SESSION REUSE: Attached shared aiohttp session to request (ID: %s)", id(session))


class EagerAttach:
    """The replacement for LiteLLM versions whose callers do not await (up to 1.82.4).

    Calling it attaches an open session at once and returns an awaitable, which need not be
    awaited; awaiting it recreates a dead session first. It carries the attributes of the
    coroutine function it stands for, so that `inspect.iscoroutinefunction` is true of it.
    """

    def __init__(self, keeper: SessionKeeper, log: logging.Logger, attach: Any) -> None:
        functools.update_wrapper(self, attach)
        self._keeper = keeper
        self._log = log
        self._attach = attach
        self.__code__ = attach.__code__
        self.__defaults__ = attach.__defaults__
        self.__kwdefaults__ = attach.__kwdefaults__

    def __call__(self, data: dict[str, Any]) -> Awaitable[None]:
        """Attach an open session at once; a dead one is recreated when the result is awaited."""
        try:
            session = self._keeper.current()
        except Exception:
            log_unexpected(self._log)
            return DONE
        if session is None:
            return _Later(self._attach, data)
        hand_over(session, data, self._log)
        return DONE


class _Done:
    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


DONE = _Done()


class _Later:
    """Starts the coroutine only when awaited, so that dropping it leaves nothing un-awaited."""

    def __init__(self, attach: Attach, data: dict[str, Any]) -> None:
        self._attach = attach
        self._data = data

    def __await__(self) -> Generator[Any, None, None]:
        return self._attach(self._data).__await__()
