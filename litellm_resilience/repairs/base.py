"""The parts of a patch: its record, its outcome, and how it is undone."""

from __future__ import annotations

import enum
import functools
import inspect
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable
    from types import ModuleType

    from litellm_resilience.records.flush import Flush
    from litellm_resilience.session.keeper import SessionKeeper

MISSING = object()


class PatchState(str, enum.Enum):
    """What became of a patch."""

    APPLIED = "applied"
    NATIVE = "native"
    NOT_NEEDED = "not needed"
    INCOMPATIBLE = "incompatible"
    DISABLED = "disabled"


@dataclass(frozen=True)
class Outcome:
    """What became of a patch, and why."""

    state: PatchState
    reason: str


class IncompatibleError(Exception):
    """The code to be patched is not what the patch was written for."""


@dataclass
class Context:
    """What a patch works with.

    Attributes:
        proxy_server: the module `litellm.proxy.proxy_server`.
        route_llm_request: the module `litellm.proxy.route_llm_request`.
        transport: the module `litellm.llms.custom_httpx.aiohttp_transport`.
        http_handler: the module `litellm.llms.custom_httpx.http_handler`.
        keeper: keeps the shared session of this process.
        flush: what this process flushes at its end.
        log: LiteLLM's proxy logger.
        changes: what has been replaced, for taking it back.
    """

    proxy_server: ModuleType
    route_llm_request: ModuleType
    transport: ModuleType
    http_handler: ModuleType
    keeper: SessionKeeper
    flush: Flush
    log: logging.Logger
    changes: Changes

    @property
    def has_shared_session(self) -> bool:
        """Whether this LiteLLM has a shared session at all (1.78.0 and later)."""
        return hasattr(self.route_llm_request, "add_shared_session_to_data")


@dataclass(frozen=True)
class Patch:
    """One repair of LiteLLM.

    Attributes:
        name: how it is called in `LITELLM_RESILIENCE_DISABLE` and in the doctor's table.
        target: what it replaces.
        apply: probes the code it finds and replaces it, or says why not.
        requires: patches without which this one would do harm.
    """

    name: str
    target: str
    apply: Callable[[Context], Outcome]
    requires: tuple[str, ...] = ()


@dataclass
class Changes:
    """What has been changed, newest last."""

    _done: list[Callable[[], str | None]] = field(default_factory=list)

    def replace(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute, remembering the raw original for `undo`."""
        original = vars(owner).get(name, MISSING)

        def put_back() -> str | None:
            if vars(owner).get(name, MISSING) is not value:
                return f"{getattr(owner, '__name__', type(owner).__name__)}.{name}"
            if original is MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, original)
            return None

        self._done.append(put_back)
        setattr(owner, name, value)

    def precede(self, owner: Any, name: str, step: Callable[[], Awaitable[object]]) -> None:
        """Do something before each call of a coroutine function.

        Raises:
            IncompatibleError: if it is missing, or not a coroutine function.
        """
        original = require_async(owner, name)

        @functools.wraps(original)
        async def preceded(*args: Any, **kwargs: Any) -> Any:
            await step()
            return await original(*args, **kwargs)

        self.replace(owner, name, preceded)

    def done(self, undo: Callable[[], object]) -> None:
        """Note something that was done otherwise, and how it is undone."""

        def undone() -> None:
            undo()

        self._done.append(undone)

    def replace_everywhere(self, owner: ModuleType, name: str, value: Any) -> None:
        """Replace a module's function and every copy that a LiteLLM module from-imported."""
        original = getattr(owner, name)
        self.replace(owner, name, value)
        # A list of the items may start a garbage collection, and a finaliser may import.
        for module_name, module in sys.modules.copy().items():
            if module_name.startswith("litellm") and vars(module).get(name) is original:
                self.replace(module, name, value)

    def mark(self) -> int:
        """Return a position to undo back to."""
        return len(self._done)

    def undo(self, mark: int = 0) -> list[str]:
        """Put originals back, newest first.

        Returns:
            Names that somebody else has replaced since, and that were left alone.
        """
        foreign = []
        while len(self._done) > mark:
            left = self._done.pop()()
            if left is not None:
                foreign.append(left)
        return foreign


def require(owner: Any, *names: str) -> None:
    """Check that all these attributes exist.

    Raises:
        IncompatibleError: naming the first one that does not.
    """
    for name in names:
        if not hasattr(owner, name):
            raise IncompatibleError(f"{getattr(owner, '__name__', owner)} has no {name}")


def require_async(owner: Any, name: str, *parameters: str) -> Any:
    """Return a coroutine function that starts with these parameters.

    Raises:
        IncompatibleError: if it is missing, not a coroutine function, or takes other parameters.
    """
    require(owner, name)
    function = getattr(owner, name)
    if not inspect.iscoroutinefunction(function):
        raise IncompatibleError(f"{name} is not a coroutine function")
    require_parameters(function, *parameters)
    return function


def require_parameters(function: Any, *parameters: str) -> None:
    """Check that a function starts with these parameters.

    Raises:
        IncompatibleError: if it takes others.
    """
    found = tuple(inspect.signature(function).parameters)
    if found[: len(parameters)] != parameters:
        raise IncompatibleError(
            f"{function.__qualname__} takes ({', '.join(found)}), "
            f"expected ({', '.join(parameters)}, ...)"
        )


def first_name(owner: Any, *names: str) -> str:
    """Return the first of these names that the owner has.

    LiteLLM dropped the leading underscore of many helpers in 1.106.0, kept the old names as
    aliases, and calls the new ones.

    Raises:
        IncompatibleError: if it has none of them.
    """
    for name in names:
        if hasattr(owner, name):
            return name
    raise IncompatibleError(f"{getattr(owner, '__name__', owner)} has none of {', '.join(names)}")


def log_unexpected(log: logging.Logger) -> None:
    """Log the exception being handled, in LiteLLM's words, without failing the request."""
    log.debug(
        "SESSION REUSE: Unexpected error in session setup, continuing without reuse",
        exc_info=sys.exc_info(),
    )
