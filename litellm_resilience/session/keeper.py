"""Keep one usable shared session per event loop, whatever happens to it."""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from asyncio import _get_running_loop
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from aiohttp import ClientSession

from litellm_resilience.session import pool
from litellm_resilience.session.backoff import Attempts, Backoff
from litellm_resilience.session.retirement import Retirement, close_now, close_on_its_loop

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

NEVER_CREATED = object()


class Slot(Protocol):
    """Where the shared session lives, and how its owner makes one."""

    def get(self) -> ClientSession | None:
        """Return what the global holds."""

    def put(self, session: ClientSession) -> None:
        """Make this session the global one."""

    async def create(self) -> ClientSession | None:
        """Make a session with the owner's own settings; None or an exception means failure."""


@dataclass
class Counters:
    """What the shared session has been through in this process.

    Attributes:
        generation: sessions that have been the shared one so far.
        recreated: sessions made to replace a dead or foreign one.
        failures: attempts to make one that failed.
        prevented_closes: closes by somebody who did not own the session.
        pool_waits: requests that had to wait for a free connection of the session.
    """

    generation: int = 0
    recreated: int = 0
    failures: int = 0
    prevented_closes: int = 0
    pool_waits: int = 0


class SessionKeeper:
    """Hands out the shared session and replaces it when it is dead.

    One creation per death, however many callers find it dead together: they wait on a lock, and
    all but the first find the new session. Cancelling a caller releases the lock.

    Attributes:
        counters: what the shared session has been through.
        latest: the session that was handed out last, whatever its state.
        creating: whether a creation of its own is under way.

    Args:
        slot: where the session lives and who creates it.
        log: LiteLLM's proxy logger.
        clock: monotonic seconds.
        backoff: pause between failed attempts to replace the same session.
        retirement: closes displaced sessions when their last request is over.
    """

    def __init__(
        self,
        slot: Slot,
        log: logging.Logger,
        *,
        clock: Callable[[], float] = time.monotonic,
        backoff: Backoff | None = None,
        retirement: Retirement | None = None,
    ) -> None:
        self.counters = Counters()
        self._slot = slot
        self._log = log
        self._clock = clock
        self._attempts = Attempts(backoff or Backoff())
        self._retirement = retirement or Retirement()
        self._locks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = (
            weakref.WeakKeyDictionary()
        )
        self._by_loop: dict[asyncio.AbstractEventLoop, ClientSession] = {}
        self._shared: weakref.WeakSet[ClientSession] = weakref.WeakSet()
        self.latest: ClientSession | None = None
        self._start_failed = False
        self._stopped = False
        self.creating = False

    def current(self) -> ClientSession | None:
        """Return the shared session if it can carry a request on the running loop, else None.

        Without a running loop any open session will do: LiteLLM up to 1.82.4 may ask from there.
        """
        session = self._slot.get()
        if session is None or session.closed:
            return None
        loop = getattr(session, "_loop", None)
        running = _get_running_loop()
        if (
            loop is not running
            and running is not None
            and isinstance(loop, asyncio.AbstractEventLoop)
        ):
            return self._switch_to(running)
        if session is not self.latest:
            self.adopt(session)
        return session

    def _switch_to(self, loop: asyncio.AbstractEventLoop) -> ClientSession | None:
        session = self._by_loop.get(loop)
        if session is None or session.closed:
            return None
        self._slot.put(session)
        self.latest = session
        return session

    async def ensure(self) -> ClientSession | None:
        """Return a usable shared session, made now if the last one died.

        Returns:
            None if there is none to be had: none was ever set up, the lifespan is over, or
            creating one has just failed and the next attempt is not due.
        """
        session = self.current()
        if session is not None or not self._creation_due():
            return session
        async with self._lock():
            session = self.current()
            if session is not None or not self._creation_due():
                return session
            return await self._replace(self._slot.get())

    def _creation_due(self) -> bool:
        if self._stopped:
            return False
        dead = self._slot.get()
        if dead is None and not self._start_failed:
            return False
        return self._attempts.allowed(NEVER_CREATED if dead is None else dead, self._clock())

    async def _replace(self, dead: ClientSession | None) -> ClientSession | None:
        self._announce(dead)
        self.creating = True
        try:
            session = await self._slot.create()
        except Exception:
            self._log.exception("SESSION REUSE: Exception during shared session recreation")
            session = None
        finally:
            self.creating = False
        if session is None:
            self._record_failure(dead)
            return None
        other = self.current()
        if self._stopped or other is not None:
            # Meanwhile the lifespan has ended, or somebody else has made a session.
            await session.close()
            return other
        self._attempts.succeeded()
        self._start_failed = False
        self.counters.recreated += 1
        self._slot.put(session)
        self.adopt(session)
        self._log.warning(
            "SESSION REUSE: Recreated shared aiohttp session (ID: %s, recreations so far: %s)",
            id(session),
            self.counters.recreated,
        )
        await self._discard_sessions_of_closed_loops()
        return session

    def _announce(self, dead: ClientSession | None) -> None:
        if dead is None:
            self._log.warning(
                "SESSION REUSE: Shared aiohttp session could not be created before, recreating..."
            )
            return
        fault = "closed" if dead.closed else "bound to another event loop"
        self._log.warning(
            "SESSION REUSE: Shared aiohttp session is %s (ID: %s), recreating...", fault, id(dead)
        )

    def _record_failure(self, dead: ClientSession | None) -> None:
        self.counters.failures += 1
        pause = self._attempts.failed(NEVER_CREATED if dead is None else dead, self._clock())
        self._log.warning(
            "SESSION REUSE: Failed to recreate shared session, continuing without session reuse "
            "(next attempt in %.0f s)",
            pause,
        )

    def _lock(self) -> asyncio.Lock:
        loop = asyncio.get_running_loop()
        lock = self._locks.get(loop)
        if lock is None:
            lock = self._locks[loop] = asyncio.Lock()
        return lock

    async def _discard_sessions_of_closed_loops(self) -> None:
        for loop in [loop for loop in self._by_loop if loop.is_closed()]:
            await close_now(self._by_loop.pop(loop))

    def adopt(self, session: ClientSession) -> None:
        """Take a session into care: from now on only its owner closes it, and gracefully.

        Args:
            session: a session that is, or is about to become, the global one. Test doubles are
                handed out but not guarded.
        """
        self.latest = session
        if session in self._shared or not isinstance(session, ClientSession):
            return
        self.counters.generation += 1
        self._shared.add(session)
        self._by_loop[session._loop] = session
        pool.watch(session, self._count_pool_wait)
        reference = weakref.ref(session)

        async def close() -> None:
            guarded = reference()
            if guarded is not None and not guarded.closed:
                await self.close(guarded)

        # aiohttp discourages attributes of our own, in debug mode with a warning; where a session
        # has no room for one, closing it is immediate.
        with contextlib.suppress(AttributeError):
            object.__setattr__(session, "close", close)

    def release(self) -> None:
        """Give the sessions in care their own `close` back."""
        for session in self._shared:
            vars(session).pop("close", None)
            pool.unwatch(session)

    async def close(self, session: ClientSession) -> None:
        """Close a shared session on its owner's behalf, letting requests in flight finish."""
        if self._stopped:
            await close_on_its_loop(session)
        else:
            await self._retirement.retire(session)

    async def retire(self, session: ClientSession) -> None:
        """Close a session that is not shared when its last request is over."""
        await self._retirement.retire(session)

    def is_shared(self, session: object) -> bool:
        """Say whether this is, or was, the shared session."""
        return isinstance(session, ClientSession) and (
            session in self._shared or session is self._slot.get()
        )

    def _count_pool_wait(self) -> None:
        self.counters.pool_waits += 1

    def prevent_close(self) -> None:
        """Count a close by somebody who does not own the session, and that was refused."""
        self.counters.prevented_closes += 1
        if self.counters.prevented_closes == 1:
            self._log.info(
                "SESSION REUSE: Kept the shared aiohttp session open: a client that does not own "
                "it tried to close it. Further attempts are only counted."
            )

    def start_up(self, session: ClientSession | None) -> None:
        """Record what the owner's own start-up made of the session.

        Args:
            session: the session it created, or None if the creation failed.
        """
        self._stopped = False
        self._start_failed = session is None
        if session is None:
            self.counters.failures += 1
            self._attempts.failed(NEVER_CREATED, self._clock())
        else:
            self._attempts.succeeded()
            self.adopt(session)

    def start(self) -> None:
        """Allow creations again: a lifespan begins."""
        self._stopped = False

    def stop(self) -> None:
        """Create nothing any more: the lifespan is ending.

        The running loop's own session becomes the global one, so that the owner closes the one
        that it may close.
        """
        self._stopped = True
        self._switch_to(asyncio.get_running_loop())

    async def aclose(self) -> None:
        """Close every session still open, on the loop it belongs to."""
        if self._by_loop:
            self._log.info(
                "SESSION REUSE: The shared session of this process ends: %s", self.counters
            )
        self._stopped = True
        await self._retirement.aclose()
        sessions, self._by_loop = self._by_loop, {}
        for session in sessions.values():
            if not session.closed:
                await close_on_its_loop(session)
