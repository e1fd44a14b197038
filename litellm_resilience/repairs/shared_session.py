"""Attach the shared session to every request, recreating it first if it is dead.

Replaces `add_shared_session_to_data` (https://github.com/BerriAI/litellm/issues/23806). From
1.82.5 LiteLLM's own recreates a closed session; it does not recover from a failed creation, from
another event loop, or inside cached clients.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
from typing import TYPE_CHECKING, Any, cast

from litellm_resilience.repairs.base import (
    Outcome,
    PatchState,
    log_unexpected,
    require_async,
    require_parameters,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from aiohttp import ClientSession

    from litellm_resilience.repairs.base import Context
    from litellm_resilience.session.keeper import SessionKeeper

    Attach = Callable[[dict[str, Any]], Awaitable[None]]

ATTACH_FUNCTION = "add_shared_session_to_data"
SESSION_KEY = "shared_session"


def knows_http2() -> bool:
    """Say whether this LiteLLM can be told to call providers with httpx, over HTTP/2."""
    return hasattr(importlib.import_module("litellm"), "http2")


def apply(context: Context) -> Outcome:
    """Replace `add_shared_session_to_data`."""
    if not context.has_shared_session:
        return Outcome(PatchState.NOT_NEEDED, "this LiteLLM has no shared session")
    native = getattr(context.route_llm_request, ATTACH_FUNCTION)
    require_parameters(native, "data")
    attach = asynchronous(context.keeper, context.log)
    if not inspect.iscoroutinefunction(native):
        attach = EagerAttach(context.keeper, context.log, attach)
    context.changes.replace_everywhere(context.route_llm_request, ATTACH_FUNCTION, attach)
    return Outcome(
        PatchState.APPLIED, "recreates under a lock when closed or bound to another loop"
    )


def apply_await(context: Context) -> Outcome:
    """Heal before `route_request` where it calls `add_shared_session_to_data` without await."""
    if not context.has_shared_session:
        return Outcome(PatchState.NOT_NEEDED, "this LiteLLM has no shared session")
    attach = getattr(context.route_llm_request, ATTACH_FUNCTION)
    if not isinstance(attach, EagerAttach):
        return Outcome(PatchState.NATIVE, "route_request awaits add_shared_session_to_data")
    route = require_async(context.route_llm_request, "route_request", "data")
    patched = HealFirst(attach, route)
    context.changes.replace_everywhere(context.route_llm_request, "route_request", patched)
    return Outcome(PatchState.APPLIED, "route_request waits for a usable session first")


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
    if session is not None:
        data[SESSION_KEY] = session
        if log.isEnabledFor(logging.INFO):
            log.info(
                "SESSION REUSE: Attached shared aiohttp session to request (ID: %s)", id(session)
            )
    else:
        log.info("SESSION REUSE: No shared session available for this request")


class CoroutineFunctionLike:
    """A callable that stands for a coroutine function and answers without a coroutine if it can.

    It carries the attributes of the function it stands for, so that
    `inspect.iscoroutinefunction` is true of it.
    """

    def __init__(self, function: Any) -> None:
        functools.update_wrapper(cast("Any", self), function)
        self.__code__ = function.__code__
        self.__defaults__ = function.__defaults__
        self.__kwdefaults__ = function.__kwdefaults__


class EagerAttach(CoroutineFunctionLike):
    """The replacement for LiteLLM versions whose callers do not await (up to 1.82.4).

    Calling it attaches an open session at once and returns an awaitable, which need not be
    awaited; awaiting it recreates a dead session first.
    """

    def __init__(self, keeper: SessionKeeper, log: logging.Logger, attach: Any) -> None:
        super().__init__(attach)
        self._keeper = keeper
        self._log = log
        self.recreate_first: Attach = attach

    def __call__(self, data: dict[str, Any]) -> Awaitable[None]:
        """Attach an open session at once; a dead one is recreated when the result is awaited."""
        attached = data.get(SESSION_KEY)
        if attached is not None and attached is self._keeper.latest:
            return NOTHING_TO_AWAIT
        return NOTHING_TO_AWAIT if self.attach_now(data) else _Later(self.recreate_first, data)

    def attach_now(self, data: dict[str, Any]) -> bool:
        """Attach the session if it is open, and say whether it was."""
        try:
            session = self._keeper.current()
        except Exception:
            log_unexpected(self._log)
            return False
        if session is None:
            return False
        hand_over(session, data, self._log)
        return True


class HealFirst(CoroutineFunctionLike):
    """`route_request`, which finds a healed session although it does not wait for one.

    With an open session the coroutine is LiteLLM's own; nothing runs around it.
    """

    def __init__(self, attach: EagerAttach, route: Any) -> None:
        super().__init__(route)
        self._attach_now = attach.attach_now
        self._recreate_first = attach.recreate_first
        self._route = route

    def __call__(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Route a request whose session is open; heal the session first if it is not."""
        data = args[0] if args else kwargs["data"]
        if self._attach_now(data):
            routed: Awaitable[Any] = self._route(*args, **kwargs)
            return routed
        return self._heal(data, args, kwargs)

    async def _heal(
        self, data: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        await self._recreate_first(data)
        return await self._route(*args, **kwargs)


class _Done:
    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


NOTHING_TO_AWAIT = _Done()


class _Later:
    """Starts the coroutine only when awaited, so that dropping it leaves nothing un-awaited."""

    def __init__(self, attach: Attach, data: dict[str, Any]) -> None:
        self._attach = attach
        self._data = data

    def __await__(self) -> Generator[Any, None, None]:
        return self._attach(self._data).__await__()
