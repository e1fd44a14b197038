"""Forking is refused wherever a worker would inherit what it must not."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from litellm_resilience.supervisor import preload
from litellm_resilience.supervisor.preload import ImportReads, obstacle

NAME = "RESILIENCE_TEST_VARIABLE"
GET = f"import os; value = os.environ.get({NAME!r})"

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="forking is refused elsewhere")
Load = Callable[[str], object]


@pytest.fixture(autouse=True)
def no_import_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest-xdist runs every test from the body of a module that is not the main one."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_globals.get("__name__") == "__channelexec__":
            monkeypatch.setitem(frame.f_globals, "__name__", "__main__")


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Import a module with this source."""
    monkeypatch.syspath_prepend(tmp_path)

    def loaded(source: str) -> object:
        sys.modules.pop("module_that_reads", None)
        (tmp_path / "module_that_reads.py").write_text(source)
        return importlib.import_module("module_that_reads")

    yield loaded
    sys.modules.pop("module_that_reads", None)


@pytest.mark.parametrize(
    "source",
    [
        GET,
        f"import os; value = os.environ[{NAME!r}]",
        f"import os; value = os.getenv({NAME!r})",
        f"import os; value = {NAME!r} in os.environ",
        f"import os\ndef ask(): return os.getenv({NAME!r})\nvalue = ask()",
        f"import os\nclass Settings:\n    value = os.getenv({NAME!r})",
    ],
    ids=["get", "item", "getenv", "in", "function", "class"],
)
def test_what_a_module_read_and_was_changed_is_stale(
    source: str, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAME, "before")
    with ImportReads() as reads:
        load(source)
        monkeypatch.setenv(NAME, "after")
    assert reads.stale() == [NAME]


def test_what_is_unchanged_is_not_stale(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "before")
    with ImportReads() as reads:
        load(GET)
        monkeypatch.setenv(NAME, "before")
    assert reads.stale() == []


def test_what_nobody_read_is_not_stale(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    with ImportReads() as reads:
        load("value = 1")
        monkeypatch.setenv(NAME, "after")
    assert reads.stale() == []


def test_a_variable_that_was_missing_is_stale_once_it_is_set(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(NAME, raising=False)
    with ImportReads() as reads:
        load(GET)
        assert reads.stale() == []
        monkeypatch.setenv(NAME, "after")
    assert reads.stale() == [NAME]


def test_a_variable_that_is_gone_is_stale(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "before")
    with ImportReads() as reads:
        load(GET)
        monkeypatch.delenv(NAME)
    assert reads.stale() == [NAME]


def test_the_first_value_that_was_read_counts(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something was made of it, whatever another module read later."""
    monkeypatch.setenv(NAME, "before")
    with ImportReads() as reads:
        load(GET)
        monkeypatch.setenv(NAME, "after")
        load(GET)
    assert reads.stale() == [NAME]


def test_what_is_read_later_than_at_import_does_not_count(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAME, "before")
    with ImportReads() as reads:
        module = load(f"import os\ndef ask(): return os.environ[{NAME!r}]")
        assert vars(module)["ask"]() == "before"
        monkeypatch.setenv(NAME, "after")
    assert reads.stale() == []


def test_modules_read_the_same_as_unwatched(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "before")
    with ImportReads():
        module = load(f"{GET}\ntry: os.environ['no ' + {NAME!r}]\nexcept KeyError: missing = True")
    assert vars(module)["value"] == "before"
    assert vars(module)["missing"]


@pytest.mark.skipif(not os.supports_bytes_environ, reason="no os.environb here")
def test_a_module_may_read_bytes(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "before")
    with ImportReads() as reads:
        load(f"import os; value = os.environb[{NAME.encode()!r}]")
    assert reads.stale() == []


def test_the_environment_is_left_as_it_was() -> None:
    original = type(os.environ).__getitem__
    with ImportReads():
        assert type(os.environ).__getitem__ is not original
    assert type(os.environ).__getitem__ is original


def test_the_environment_is_left_as_it_was_after_a_failed_import(load: Load) -> None:
    original = type(os.environ).__getitem__
    with pytest.raises(ZeroDivisionError), ImportReads():
        load("1 / 0")
    assert type(os.environ).__getitem__ is original


def test_stop_is_idempotent() -> None:
    original = type(os.environ).__getitem__
    with ImportReads() as reads:
        reads.stop()
        assert type(os.environ).__getitem__ is original
        with ImportReads():
            inner = type(os.environ).__getitem__
            reads.stop()
            assert type(os.environ).__getitem__ is inner
    assert type(os.environ).__getitem__ is original


@pytest.fixture
def others() -> set[str]:
    """The threads that earlier tests have left."""
    return {thread.name for thread in threading.enumerate()} - {threading.current_thread().name}


@pytest.fixture
def no_native_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever libraries earlier tests have loaded."""
    monkeypatch.setattr(preload, "_native_threads", threading.active_count)


@pytest.fixture
def odd_thread() -> Iterator[None]:
    """A thread named "odd"."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="odd")
    thread.start()
    yield
    end.set()
    thread.join()


@needs_linux
@pytest.mark.usefixtures("odd_thread")
def test_an_unknown_thread_is_named(others: set[str]) -> None:
    assert obstacle(known_threads=others - {"odd"}) == "there are other threads: odd"


@needs_linux
@pytest.mark.usefixtures("odd_thread", "no_native_threads")
def test_a_known_thread_is_accepted(others: set[str]) -> None:
    assert obstacle(known_threads=others | {"odd"}) is None


@needs_linux
def test_threads_that_are_not_pythons_are_counted(
    others: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preload, "_native_threads", lambda: threading.active_count() + 2)
    expected = "there are 2 threads that do not belong to Python"
    assert obstacle(known_threads=others) == expected


@needs_linux
@pytest.mark.usefixtures("odd_thread")
def test_pythons_own_threads_are_not_counted_as_foreign() -> None:
    assert preload._native_threads() >= threading.active_count()


@needs_linux
async def test_forking_is_refused_inside_an_event_loop() -> None:
    assert asyncio.get_running_loop().is_running()
    assert obstacle() == "an event loop is running"


@needs_linux
@pytest.mark.usefixtures("no_native_threads")
def test_a_changed_environment_is_an_obstacle(
    others: set[str], load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAME, "before")
    with ImportReads() as reads:
        load(GET)
        assert obstacle(reads.stale(), others) is None
        monkeypatch.setenv(NAME, "after")
        assert obstacle(reads.stale(), others) == f"set after modules had read them: {NAME}"


def test_other_platforms_do_not_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert obstacle() == "on darwin forking is not safe"
