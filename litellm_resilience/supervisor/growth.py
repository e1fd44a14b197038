"""What a forked worker holds that it did not hold at its fork, by type of object, told at its end.

Nothing is counted while it serves. The garbage collector leaves what was frozen before the fork
alone, so what it lists at the end has come since. Containers of before the fork may have grown by
what it does not list, such as texts: where they are, and how long they were, is noted before the
fork. To look at them again without touching those that have not grown, whose memory would no longer
be shared then, their lengths are read where the interpreter keeps them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import random
import sys
import time
import types
from array import array
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from litellm_resilience.supervisor import memory
from litellm_resilience.supervisor.limits import MEGABYTE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

CPU_SECONDS = 1.0
"""How long counting may take; if there are more objects, some of them stand for all."""
WINDOW = 20_000
"""Objects that are looked at together. What was made together is listed together."""
DEPTH = 4
"""How many steps from a module a container is noted."""
MOST_NOTED = 100_000
"""How many containers are noted at most."""
MOST_ELEMENTS = 1000
"""How many elements of a container are looked at."""
MOST_TYPES = 40
"""How many types are told."""
UNSEEN = 0.5
"""If less than this part of the growth is in objects, it is elsewhere."""

MAINLY = 0.5
"""A place is named if it holds this part of the objects of a type, at least."""
LEAST_GROWTH = 16 * MEGABYTE
"""Bytes; what is below may be memory that is only not shared any more."""

CONTAINERS = (dict, list, set, deque, OrderedDict, defaultdict)
PLAIN = frozenset(
    {
        *(*CONTAINERS, tuple, frozenset, types.MappingProxyType, types.CellType, types.MethodType),
        *(types.FrameType, types.TracebackType, types.CoroutineType, types.GeneratorType),
        *(types.AsyncGeneratorType, type(iter([])), type({}.items()), type({}.values())),
    }
)
"""What belongs to the object that holds it, and says nothing by its type."""
NO_HOLDERS = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)
OWN_REFERENCES = 3
"""That this module has to an object while it asks how many there are."""


@dataclass(frozen=True)
class Entry:
    """What there is more of one type.

    Args:
        type: its name.
        count: how many objects.
        bytes: how much they hold, with the texts and plain containers that belong to them.
        held_in: where a container from before the fork holds some of them; empty if none is known.
    """

    type: str
    count: int
    bytes: int
    held_in: str = ""

    def __str__(self) -> str:
        held = f" in {self.held_in}" if self.held_in else ""
        return f"{self.type} ({self.count}{held}, {self.bytes / MEGABYTE:.1f} MB)"


@dataclass(frozen=True)
class Growth:
    """What a worker has more than at its fork.

    Args:
        memory: bytes of memory of its own.
        objects: bytes of that in Python objects.
        entries: of which types, the largest first.
    """

    memory: int
    objects: int
    entries: tuple[Entry, ...]

    @property
    def is_elsewhere(self) -> bool:
        """Whether most of the growth is not in Python objects."""
        return self.memory > LEAST_GROWTH and self.objects < UNSEEN * self.memory

    def encoded(self, longest: int) -> bytes:
        """Return it as JSON of so many bytes at most; the smallest entries are left out."""
        for kept in range(len(self.entries), -1, -1):
            told = {**asdict(self), "entries": [asdict(each) for each in self.entries[:kept]]}
            text = json.dumps(told).encode()
            if len(text) <= longest:
                return text
        return b""

    @classmethod
    def decoded(cls, text: bytes) -> Growth | None:
        """Return what was encoded; None if that is not whole."""
        try:
            told = json.loads(text)
            entries = tuple(
                Entry(str(e["type"]), int(e["count"]), int(e["bytes"]), str(e["held_in"]))
                for e in told["entries"]
            )
            return cls(int(told["memory"]), int(told["objects"]), entries)
        except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
            return None


class Baseline:
    """Which containers modules hold, and how long they are.

    Args:
        modules: what each module holds, by its name.
    """

    def __init__(self, modules: Iterable[tuple[str, dict[str, Any]]]) -> None:
        self._containers: list[Any] = []  # kept alive, so that their places stay theirs
        self._names: list[str] = []
        self._places = array("Q")
        self._lengths = array("q")
        self.memory = 0
        self.modules: set[str] = set()
        seen: set[int] = set()
        for name, module in modules:
            self.modules.add(name)
            for key, value in list(module.items()):
                if not (isinstance(key, str) and key.startswith("__")):
                    self._note(f"{name}.{key}", value, seen)

    def _note(self, name: str, value: Any, seen: set[int]) -> None:
        level = [value]
        for _ in range(DEPTH):
            following: list[Any] = []
            for each in level:
                if id(each) in seen or (not gc.is_tracked(each) and type(each) not in CONTAINERS):
                    continue
                seen.add(id(each))
                if issubclass(type(each), NO_HOLDERS):
                    if type(each) is type and each is value:
                        following += list(vars(each).values())
                    continue
                if type(each) in CONTAINERS and len(self._containers) < MOST_NOTED:
                    place = _place_of_length(each)
                    if _read(place) == len(each):
                        self._containers.append(each)
                        self._names.append(name)
                        self._places.append(place)
                        self._lengths.append(len(each))
                if type(each) not in CONTAINERS or len(each) <= MOST_ELEMENTS:
                    following += gc.get_referents(each)
            level = following

    def named(self) -> Iterator[tuple[str, Any]]:
        """Yield each container with its name."""
        yield from zip(self._names, self._containers, strict=True)

    def grown(self) -> Iterator[tuple[str, Any, int]]:
        """Yield the name of each container that has grown, the container, and by how many."""
        for index, (place, before) in enumerate(zip(self._places, self._lengths, strict=True)):
            if _read(place) > before:
                container = self._containers[index]
                yield self._names[index], container, len(container) - before


def _place_of_length(container: Any) -> int:
    """Return the address of a container's length in CPython: it is read back to be sure."""
    header = object.__basicsize__
    return id(container) + header + (ctypes.sizeof(ctypes.c_ssize_t) * isinstance(container, set))


def _read(place: int) -> int:
    return ctypes.c_ssize_t.from_address(place).value


def _loaded() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, module in sys.modules.copy().items():
        if isinstance(module, types.ModuleType):
            yield name, vars(module)


def _is_of_module(each: Any) -> bool:
    """Say whether this is what a module holds; LiteLLM loads callbacks that are not listed."""
    return type(each) is dict and "__spec__" in each and isinstance(each.get("__name__"), str)


_baseline: Baseline | None = None


def note() -> None:
    """Note what there is; to be called in the process that forks, before it freezes its objects."""
    global _baseline  # noqa: PLW0603
    _baseline = None
    with contextlib.suppress(Exception):  # a strange module must not keep the proxy from serving
        _baseline = Baseline(_loaded())


def begin() -> None:
    """Note how much memory is this worker's own; to be called in it before it serves."""
    if _baseline is not None:
        _baseline.memory = memory.private(os.getpid())


def told(longest: int) -> bytes:
    """Return what has grown in this worker, as `Growth.decoded` reads it; nothing if unknown.

    Args:
        longest: how many bytes that may be.
    """
    try:
        growth = since_fork()
    except Exception:  # an object that cannot be looked at must not cost what comes after
        return b""
    return b"" if growth is None else growth.encoded(longest)


def since_fork() -> Growth | None:
    """Return what this worker has more than at its fork; None if it was not forked."""
    if _baseline is None:
        return None
    grown = memory.private(os.getpid()) - _baseline.memory
    objects = gc.get_objects()
    known = {*_baseline.modules, __name__}
    unlisted = ((each["__name__"], each) for each in objects if _is_of_module(each))
    later = Baseline(each for each in (*_loaded(), *unlisted) if each[0] not in known)
    census = _Census(objects, {id(container): name for name, container in later.named()})
    census.count()
    census.add_holders(later.named())
    census.add_untracked(_baseline.grown())
    return census.result(max(0, grown))


class _Census:
    """Counts objects by type.

    Args:
        objects: all that are new.
        names: of containers, by their `id`.
    """

    def __init__(self, objects: list[Any], names: dict[int, str]) -> None:
        self._objects = objects
        self._names = names
        self._counts: Counter[Any] = Counter()
        self._bytes: Counter[Any] = Counter()
        self._held_in: dict[Any, Counter[str]] = defaultdict(Counter)

    def count(self) -> None:
        """Count them, or windows of them that are spread over all, and scale those up."""
        total = len(self._objects)
        starts = list(range(0, total, WINDOW))
        random.Random(0).shuffle(starts)
        deadline = time.process_time() + CPU_SECONDS
        looked = 0
        for start in starts:
            window = self._objects[start : start + WINDOW]
            self._count_window(window)
            looked += len(window)
            if time.process_time() > deadline:
                break
        self._objects = []
        if looked < total:
            for counter in (self._counts, self._bytes):
                for key in counter:
                    counter[key] = counter[key] * total // looked

    def _count_window(self, window: Sequence[Any]) -> None:
        plain = {id(each) for each in window if type(each) in PLAIN}
        known = [each for each in window if id(each) in self._names]
        others = [each for each in window if type(each) not in PLAIN]
        for group in (known, others, window):
            for each in group:
                if id(each) in plain or group is others:
                    plain.discard(id(each))
                    self._add(each, plain)

    def _add(self, each: Any, plain: set[int]) -> None:
        key = _key(each)
        if name := self._names.get(id(each)):
            key = (key, name)
        self._counts[key] += 1
        self._bytes[key] += _weight(each, plain)

    def add_holders(self, containers: Iterable[tuple[str, Any]]) -> None:
        """Note what containers hold that are new themselves."""
        for name, container in containers:
            scale = max(1, len(container) // MOST_ELEMENTS)
            for parts in islice(_newest(container), MOST_ELEMENTS):
                for each in parts:
                    if type(each) not in PLAIN and gc.is_tracked(each):
                        self._held_in[_key(each)][name] += scale

    def add_untracked(self, grown: Iterable[tuple[str, Any, int]]) -> None:
        """Count what the garbage collector does not list, in containers of before the fork."""
        for name, container, more in grown:
            newest = list(islice(_newest(container), min(more, MOST_ELEMENTS)))
            for parts in newest:
                for each in parts:
                    if gc.is_tracked(each):
                        self._held_in[_key(each)][name] += more // len(newest) or 1
                        continue
                    share = max(1, sys.getrefcount(each) - OWN_REFERENCES)
                    size = _size(each) + sum(map(_size, gc.get_referents(each)))
                    key = type(each)
                    self._held_in[key][name] += more // len(newest) or 1
                    self._counts[key] += more // len(newest) or 1
                    self._bytes[key] += size * more // len(newest) // share

    def result(self, memory: int) -> Growth:
        """Return what was counted, the largest first."""
        entries = tuple(
            Entry(_name(key), self._counts[key], size, self._holder(key))
            for key, size in self._bytes.most_common(MOST_TYPES)
        )
        return Growth(memory, sum(self._bytes.values()), entries)

    def _holder(self, key: Any) -> str:
        if isinstance(key, tuple):
            return str(key[1])
        [(name, held)] = self._held_in[key].most_common(1) or [("", 0)]
        return name if held >= MAINLY * self._counts[key] else ""


def _newest(container: Any) -> Iterator[tuple[Any, ...]]:
    """Yield a container's elements, the newest first where it knows them."""
    if isinstance(container, dict):
        yield from reversed(container.items())
    elif isinstance(container, set):
        yield from ((each,) for each in container)
    else:
        yield from ((each,) for each in reversed(container))


def _weight(owner: Any, plain: set[int]) -> int:
    """Return the bytes of an object and of what is new and belongs to it.

    Args:
        owner: the object.
        plain: the new plain objects that belong to none yet; those found are taken out.
    """
    weight = _size(owner)
    stack = [] if issubclass(type(owner), NO_HOLDERS) else [owner]
    while stack:
        for each in gc.get_referents(stack.pop()):
            if gc.is_tracked(each):
                if id(each) in plain:
                    plain.discard(id(each))
                    weight += _size(each)
                    stack.append(each)
            else:
                share = max(1, sys.getrefcount(each) - OWN_REFERENCES)
                weight += _size(each) // share
                if share == 1 and type(each) in PLAIN:
                    stack.append(each)
    return weight


def _size(each: Any) -> int:
    try:
        return sys.getsizeof(each)
    except Exception:
        return 0


def _key(each: Any) -> Any:
    """Return what an object is counted as: its type, or for a task what it does."""
    if not issubclass(type(each), asyncio.Task):
        return type(each)
    return f"Task {getattr(each.get_coro(), '__qualname__', '')}".rstrip()


def _name(key: Any) -> str:
    if isinstance(key, tuple):
        key = key[0]
    if isinstance(key, str):
        return key
    name: str = key.__qualname__
    return name if key.__module__ == "builtins" else f"{key.__module__}.{name}"
