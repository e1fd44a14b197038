"""What modules read of the environment while they were imported."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from litellm_resilience.supervisor.importing import importing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from typing_extensions import Self

MAPPING_MODULES = frozenset({"collections.abc", "_collections_abc", "os"})
"""Modules that stand between `os.environ` and whoever iterates over it."""


class ImportReads:
    """Which environment variables modules have read while they were imported.

    A forked worker has what the modules made of the environment then, not of the environment it is
    to serve with, which LiteLLM's command completes after its imports. Whoever copies or iterates
    over the whole environment, as httpx and pydantic-settings do, reads no variable by that. A
    context manager.
    """

    def __init__(self) -> None:
        self._seen: dict[str, str | None] = {}
        self._iterated: dict[int, set[str]] = {}
        self._originals: dict[str, Callable[..., Any]] = {}

    def __enter__(self) -> Self:
        """Begin to watch `os.environ`."""
        environ: Any = type(os.environ)
        self._originals = {
            name: getattr(environ, name) for name in ("__getitem__", "__setitem__", "__iter__")
        }
        environ.__getitem__ = self._watched_read()
        environ.__setitem__ = self._watched_write()
        environ.__iter__ = self._watched_iteration()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching."""
        self.stop()

    def stop(self) -> None:
        """Leave `os.environ` as it was. Idempotent."""
        for name, original in self._originals.items():
            setattr(type(os.environ), name, original)
        self._originals = {}
        self._iterated.clear()

    def stale(self) -> list[str]:
        """Return the variables whose value has changed since a module has read it."""
        return sorted(name for name, value in self._seen.items() if os.environ.get(name) != value)

    def _watched_read(self) -> Callable[..., Any]:
        read, seen = self._originals["__getitem__"], self._seen

        def watched(environment: Any, name: Any) -> Any:
            value, missing = None, None
            try:
                value = read(environment, name)
            except KeyError as error:
                missing = error
            if environment is os.environ:
                reader = sys._getframe(1)
                if not self._is_iteration(reader, name) and importing(reader):
                    seen.setdefault(name, value)
            if missing is not None:
                raise missing
            return value

        return watched

    def _watched_write(self) -> Callable[..., Any]:
        write, seen = self._originals["__setitem__"], self._seen

        def watched(environment: Any, name: Any, value: Any) -> None:
            write(environment, name, value)
            # A spawned worker's imports would write the same.
            if name in seen and importing(sys._getframe(1)):
                seen[name] = value

        return watched

    def _watched_iteration(self) -> Callable[..., Any]:
        iterate = self._originals["__iter__"]

        def watched(environment: Any) -> Iterator[str]:
            if environment is not os.environ:
                yield from iterate(environment)
                return
            # The first `next` comes from whoever iterates.
            names = self._iterated[_user(sys._getframe(1))] = set()
            for name in iterate(environment):
                names.add(name)
                yield name

        return watched

    def _is_iteration(self, reader: FrameType, name: str) -> bool:
        """Say whether a value is read because its name came up; each name counts once."""
        names = self._iterated.get(_user(reader), set())
        if name not in names:
            return False
        names.remove(name)
        return True


def _user(frame: FrameType | None) -> int:
    """Return the identity of the frame that uses the environment through a mapping's methods."""
    while frame is not None and frame.f_globals.get("__name__") in MAPPING_MODULES:
        frame = frame.f_back
    return id(frame)
