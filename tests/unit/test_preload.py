"""Forking is refused wherever a worker would inherit what it must not."""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from litellm_resilience.supervisor.environment import ImportReads
from litellm_resilience.supervisor.preload import obstacle

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


@pytest.mark.parametrize(
    "source",
    [
        "value = {name: value for name, value in os.environ.items() if name == 'nothing'}",
        "value = list(os.environ.values())",
        "value = dict(os.environ)",
        "value = {**os.environ}",
        "value = os.environ.copy()",
        "for name in os.environ: value = os.environ[name]",
        "def ask(): return dict(os.environ)\nvalue = ask()",
    ],
    ids=["items", "values", "dict", "unpacked", "copy", "loop", "function"],
)
def test_iterating_over_the_environment_reads_no_variable(
    source: str, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAME, "before")
    with ImportReads() as reads:
        load(f"import os\n{source}")
        monkeypatch.setenv(NAME, "after")
    assert reads.stale() == []


@pytest.mark.parametrize("first", ["dict(os.environ)", "list(os.environ.items())"])
def test_a_variable_that_is_read_after_an_iteration_is_read(
    first: str, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAME, "before")
    with ImportReads() as reads:
        load(f"import os\neverything = {first}\nvalue = os.environ[{NAME!r}]")
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


def obstacle_after(source: str) -> str:
    """Return what is said in a fresh process in which this program has run."""
    program = f"""
import os, threading, time
from litellm_resilience.supervisor import preload
known = ()
preload.THREAD_END_TIMEOUT = preload.THREAD_RETURN_TIMEOUT = 0.2
def start(target, name):
    threading.Thread(target=target, name=name, daemon=True).start()
def for_ever():
    threading.Event().wait()
{textwrap.dedent(source)}
print(preload.obstacle(known_threads=known), flush=True)
os._exit(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


@needs_linux
class TestThreads:
    def test_without_other_threads_there_is_no_obstacle(self) -> None:
        assert obstacle_after("") == "None"

    def test_a_thread_that_stays_is_named(self) -> None:
        said = obstacle_after("start(for_ever, 'odd')")
        assert said == "a forked worker would miss the threads odd"

    def test_a_thread_that_ends_by_itself_is_none(self) -> None:
        source = """
            preload.THREAD_END_TIMEOUT = 30
            start(lambda: time.sleep(0.3), 'short')
        """
        assert obstacle_after(source) == "None"

    def test_a_thread_that_comes_back_in_a_child_is_none(self) -> None:
        source = """
            start(for_ever, 'exporter')
            os.register_at_fork(after_in_child=lambda: start(for_ever, 'exporter'))
        """
        assert obstacle_after(source) == "None"

    def test_each_thread_has_to_come_back(self) -> None:
        source = """
            start(for_ever, 'exporter')
            start(for_ever, 'exporter')
            os.register_at_fork(after_in_child=lambda: start(for_ever, 'exporter'))
        """
        assert obstacle_after(source) == "a forked worker would miss the threads exporter"

    def test_a_known_thread_is_none(self) -> None:
        assert obstacle_after("known = ['odd']; start(for_ever, 'odd')") == "None"

    def test_a_thread_that_python_did_not_start_is_counted(self) -> None:
        source = """
            import _thread
            _thread.start_new_thread(for_ever, ())
        """
        said = obstacle_after(source)
        assert said == "a forked worker would miss 1 threads that Python did not start"

    def test_one_that_python_did_not_start_may_come_back_too(self) -> None:
        source = """
            import _thread
            again = lambda: _thread.start_new_thread(for_ever, ())
            again()
            os.register_at_fork(after_in_child=again)
        """
        assert obstacle_after(source) == "None"

    def test_a_child_that_hangs_at_once_is_an_obstacle(self) -> None:
        source = """
            preload.TRIAL_TIMEOUT = 0.2
            os.register_at_fork(after_in_child=for_ever)
        """
        assert "did not answer" in obstacle_after(source)


@needs_linux
async def test_forking_is_refused_inside_an_event_loop() -> None:
    assert asyncio.get_running_loop().is_running()
    assert obstacle() == "an event loop is running"


@needs_linux
def test_a_changed_environment_is_an_obstacle(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "before")
    with ImportReads() as reads:
        load(GET)
        monkeypatch.setenv(NAME, "after")
        assert obstacle(reads.stale()) == f"set after modules had read them: {NAME}"


def test_other_platforms_do_not_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert obstacle() == "on darwin forking is not safe"
