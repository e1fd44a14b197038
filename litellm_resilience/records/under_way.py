"""What is being sent or written at this moment, so that it can be counted and waited for."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


class UnderWay(Generic[T]):
    """Attempts that have begun and not ended, each with what it is about."""

    def __init__(self) -> None:
        self._attempts: dict[asyncio.Future[None], T] = {}

    @contextlib.contextmanager
    def attempt(self, about: T) -> Iterator[None]:
        """Be under way inside this context; to be entered in an event loop."""
        ended = asyncio.get_running_loop().create_future()
        self._attempts[ended] = about
        try:
            yield
        finally:
            del self._attempts[ended]
            ended.set_result(None)

    def all(self) -> list[T]:
        """Return what each attempt is about."""
        return list(self._attempts.values())

    async def waited(self, wanted: Callable[[T], bool] = lambda _: True) -> bool:
        """Wait for the attempts of now to end; say whether there were any.

        Args:
            wanted: from what an attempt is about to whether it is waited for.
        """
        attempts = [ended for ended, about in self._attempts.items() if wanted(about)]
        if attempts:
            await asyncio.wait(attempts)
        return bool(attempts)
