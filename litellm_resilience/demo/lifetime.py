"""Things that are started and stopped, as context managers."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


class Started(abc.ABC):
    """Starts when the context is entered and stops when it is left."""

    @abc.abstractmethod
    def start(self) -> Self:
        """Start, and return this object."""

    @abc.abstractmethod
    def stop(self) -> object:
        """Stop; what is returned is not for the context manager."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
