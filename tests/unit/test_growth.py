"""What grew since a fork: five planted leaks, each in a child that is forked as a worker is."""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib.machinery
import importlib.util
import os
import sys
import types as types_of_modules
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest

from litellm_resilience.supervisor import growth
from litellm_resilience.supervisor.growth import Baseline, Entry, Growth
from litellm_resilience.supervisor.limits import MEGABYTE
from litellm_resilience.supervisor.preload import share_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")

LONGEST = 8191
TEXTS: list[str] = []
HELD: list[Any] = []
CACHE: dict[str, Any] = {}
INDEX: dict[bytes, bytes] = {}


class Request:
    """As a server has it: a scope, headers and a body."""

    def __init__(self, number: int) -> None:
        self.scope = {"path": f"/v1/{number}", "headers": [(b"host", b"%d" % number)]}
        self.body = b"%d" % number * 1000


class Response:
    def __init__(self, number: int) -> None:
        self.choices = [{"message": {"content": f"{number} " * 500}}]


class LeakedError(Exception):
    """Keeps the frame that has raised it."""


@functools.lru_cache(maxsize=None)  # noqa: UP033 - its dictionary is the interpreter's, in C
def wrapped(number: int) -> bytes:
    return b"%d" % number * 500


class Holder:
    """A module-level object with a container inside."""

    def __init__(self) -> None:
        self.kept: set[bytes] = set()


HOLDER = Holder()


def leak_requests() -> None:
    HELD.extend(Request(number) for number in range(3000))


def leak_responses() -> None:
    CACHE.update({str(number): Response(number) for number in range(3000)})


async def never(number: int) -> None:
    payload = b"%d" % number * 800
    await asyncio.get_running_loop().create_future()
    del payload


def leak_tasks() -> None:
    loop = asyncio.new_event_loop()
    HELD.extend(loop.create_task(never(number)) for number in range(3000))
    loop.run_until_complete(asyncio.sleep(0))
    HELD.append(loop)


def failed(number: int) -> LeakedError:
    payload = b"%d" % number * 800
    try:
        fail(payload)
    except LeakedError as error:
        return error


def fail(payload: bytes) -> NoReturn:
    raise LeakedError(len(payload))


def leak_exceptions() -> None:
    HELD.extend(failed(number) for number in range(3000))


def leak_in_c() -> None:
    for number in range(5000):
        wrapped(number)


def leak_untracked() -> None:
    INDEX.update({b"%d" % number: b"%d" % number * 900 for number in range(3000)})


def leak_texts() -> None:
    TEXTS.extend(str(number) * 900 for number in range(3000))


def leak_in_a_set() -> None:
    HOLDER.kept.update(b"%d" % number * 900 for number in range(3000))


@pytest.fixture
def grown() -> Iterator[Callable[[Callable[[], object]], Growth]]:
    """Return what grows in a forked child that does something."""
    before = growth._baseline
    here = sys.modules[__name__]
    growth._baseline = Baseline([(__name__, vars(here))])
    share_memory()

    def after(leak: Callable[[], object]) -> Growth:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                growth.begin()
                leak()
                os.write(writing, growth.told(LONGEST))
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as told:
            found = Growth.decoded(told.read())
        os.waitpid(child, 0)
        assert found is not None
        return found

    yield after
    gc.unfreeze()
    growth._baseline = before


def types(found: Growth, most: int = 3) -> list[str]:
    return [entry.type.rpartition(".")[2] for entry in found.entries[:most]]


@pytest.mark.parametrize(
    ("leak", "culprit", "held_in"),
    [
        (leak_requests, "Request", "HELD"),
        (leak_responses, "Response", "CACHE"),
        (leak_tasks, "Task never", "HELD"),
        (leak_exceptions, "LeakedError", "HELD"),
        (leak_in_c, "bytes", "wrapped"),
        (leak_untracked, "bytes", "INDEX"),
        (leak_texts, "str", "TEXTS"),
        (leak_in_a_set, "bytes", "HOLDER"),
    ],
)
def test_a_leak_is_named_with_the_place_that_holds_it(
    grown: Callable[[Callable[[], object]], Growth],
    leak: Callable[[], object],
    culprit: str,
    held_in: str,
) -> None:
    found = grown(leak)
    assert culprit in types(found)
    entry = found.entries[types(found).index(culprit)]
    assert entry.held_in == f"{__name__}.{held_in}"
    assert entry.count >= 3000
    assert not found.is_elsewhere
    assert entry.bytes > 0.5 * found.memory


def test_what_is_no_object_is_said_to_be_elsewhere(
    grown: Callable[[Callable[[], object]], Growth],
) -> None:
    """As what an extension has allocated for itself."""
    import mmap

    def leak() -> None:
        memory = mmap.mmap(-1, 50 * MEGABYTE)
        memory.write(b"x" * len(memory))
        HELD.append(memory)

    found = grown(leak)
    assert found.memory >= 50 * MEGABYTE
    assert found.is_elsewhere


def test_what_was_there_before_the_fork_is_not_growth(
    grown: Callable[[Callable[[], object]], Growth],
) -> None:
    found = grown(lambda: None)
    assert found.objects < MEGABYTE
    assert found.memory < 20 * MEGABYTE


def test_of_very_many_objects_some_stand_for_all(
    grown: Callable[[Callable[[], object]], Growth], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it would take to count them."""
    monkeypatch.setattr(growth, "CPU_SECONDS", 0.0)
    found = grown(lambda: HELD.extend([number] for number in range(200_000)))
    entry = found.entries[0]
    assert entry.type == "list"
    assert entry.count == pytest.approx(200_000, rel=0.2)


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{", b"[]", b"null", b'{"memory": 1}', b"\xff", b"1", b"[" * LONGEST),
        b'{"memory": Infinity, "objects": 1, "entries": []}',
        b'{"memory": 1, "objects": NaN, "entries": []}',
        b'{"memory": 1, "objects": 1, "entries": [1]}',
        b'{"memory": 1, "objects": 1, "entries": [{"type": "x", "count": "many"}]}',
    ],
)
def test_half_a_report_is_none(text: bytes) -> None:
    """The worker was killed while it wrote."""
    assert Growth.decoded(text) is None


def test_the_smallest_entries_are_left_out_where_there_is_no_room() -> None:
    entries = tuple(Entry(f"{'long' * 20}{number}", 1, 1000 - number) for number in range(40))
    found = Growth(5, 4, entries)
    text = found.encoded(2000)
    assert 1000 < len(text) <= 2000
    decoded = Growth.decoded(text)
    assert decoded is not None
    assert decoded.entries == entries[: len(decoded.entries)]
    assert (decoded.memory, decoded.objects) == (5, 4)


def test_an_object_that_refuses_to_be_looked_at_costs_nothing(
    grown: Callable[[Callable[[], object]], Growth],
) -> None:
    class Hostile:
        def __sizeof__(self) -> int:
            raise RuntimeError("no")

        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError(name)

        def __len__(self) -> int:
            raise RuntimeError("no")

    def leak() -> None:
        HELD.extend(Hostile() for _ in range(10))
        leak_requests()

    assert "Request" in types(grown(leak))


def test_a_worker_that_was_not_forked_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "_baseline", None)
    growth.begin()
    assert growth.told(LONGEST) == b""


def test_a_module_that_is_listed_nowhere_is_named_too(
    grown: Callable[[Callable[[], object]], Growth],
) -> None:
    """LiteLLM loads a callback that lies beside its config that way."""

    def leak() -> None:
        spec = importlib.machinery.ModuleSpec("callback", None)
        callback = importlib.util.module_from_spec(spec)
        callback.__dict__["kept"] = [b"%d" % number * 900 for number in range(3000)]
        HELD.append(types_of_modules.MethodType(len, callback))

    found = grown(leak)
    assert found.entries[0].type == "list"
    assert found.entries[0].held_in == "callback.kept"


def test_a_module_that_is_imported_later_is_named_too(
    grown: Callable[[Callable[[], object]], Growth], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callbacks are, in each worker."""

    def leak() -> None:
        late = types_of_modules.ModuleType("late")
        late.__dict__["kept"] = [b"%d" % number * 900 for number in range(3000)]
        late.__dict__["held"] = {number: Request(number) for number in range(3000)}
        monkeypatch.setitem(sys.modules, "late", late)

    found = grown(leak)
    held_in = {entry.type.rpartition(".")[2]: entry.held_in for entry in found.entries[:3]}
    assert held_in["list"] == "late.kept"
    assert held_in["Request"] == "late.held"


def test_a_worker_does_not_gather_garbage_in_proportion_to_what_is_frozen() -> None:
    thresholds = gc.get_threshold()
    frozen = [[] for _ in range(600_000)]  # type: ignore[var-annotated]
    gc.set_threshold(700, 10, 10)
    try:
        share_memory()
        before = gc.get_stats()[2]["collections"]
        kept = [[] for _ in range(100_000)]  # type: ignore[var-annotated]
        assert gc.get_stats()[2]["collections"] > before
        del kept
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        del frozen
