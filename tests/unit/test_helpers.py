"""Which processes are taken for a worker's, with real processes and no worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from litellm_resilience.supervisor import helpers, title
from litellm_resilience.supervisor.helpers import Helpers, Table

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
SLEEP = ["sleep", "600"]
NOW = 1000.0


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a command that ends with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*command: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        assert process.stdout is not None
        process.stdout.close()
        process.wait()


@pytest.fixture
def shell(start: Callable[..., subprocess.Popen[bytes]]) -> tuple[subprocess.Popen[bytes], int]:
    """A process that has started another, and the other's pid."""
    parent = start("sh", "-c", "sleep 600 & echo $!; wait")
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


def test_a_name_with_brackets_and_spaces_is_read_as_it_is(
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    rename = "import pathlib; pathlib.Path('/proc/self/comm').write_text('a) S 1 (b')"
    process = start(
        sys.executable, "-c", f"{rename}; print(flush=True); __import__('time').sleep(600)"
    )
    assert process.stdout is not None
    process.stdout.readline()
    found = Table().all[process.pid]
    assert (found.name, found.parent, found.dead) == ("a) S 1 (b", os.getpid(), False)


def test_adopted_are_all_children_but_the_known(
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    known, strange = start(*SLEEP), start(*SLEEP)
    found = {process.pid for process in helpers.adopted({known.pid})}
    assert strange.pid in found
    assert known.pid not in found


def test_nothing_that_was_there_before_is_ended(
    shell: tuple[subprocess.Popen[bytes], int],
) -> None:
    """Neither is what it leaves when it ends together with a worker."""
    parent, child = shell
    watch = Helpers()
    assert watch.look(NOW, {2**22 + 1: "worker 1"}) == []
    parent.kill()
    parent.wait()
    assert watch.look(NOW + 1, {}) == []
    assert Table().all[child].parent == os.getpid()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_an_orphan_of_nobody_is_reaped_and_an_own_child_is_not(
    start: Callable[..., subprocess.Popen[bytes]], shell: tuple[subprocess.Popen[bytes], int]
) -> None:
    """Whoever has started a child may still ask how it ended."""
    own, (parent, orphan) = start(*SLEEP), shell
    watch = Helpers()
    for process in (parent, own):
        process.kill()
    parent.wait()
    os.kill(orphan, signal.SIGKILL)
    deadline = time.monotonic() + 20
    later = NOW
    while orphan in Table().all:
        assert time.monotonic() < deadline
        later += helpers.UNCLAIMED
        watch.look(later, {})
    assert os.waitstatus_to_exitcode(os.waitpid(own.pid, 0)[1]) == -signal.SIGKILL


def test_a_process_that_is_left_alone_is_never_reaped_nor_its_group_ended(
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    """Whoever waits for it asks how it ended, however late."""
    watch = Helpers()
    grown = start("setsid", "sh", "-c", "trap '' TERM; sleep 600 & echo $!; exec sleep 600")
    assert grown.stdout is not None
    member = int(grown.stdout.readline())
    watch.leave(grown.pid)
    watch.look(NOW, {2**22 + 1: "worker 1"})
    grown.kill()
    os.waitid(os.P_PID, grown.pid, os.WEXITED | os.WNOWAIT)
    for later in range(4):
        assert watch.look(NOW + later * helpers.UNCLAIMED, {}) == []
    assert os.waitstatus_to_exitcode(os.waitpid(grown.pid, 0)[1]) == -signal.SIGKILL
    os.kill(member, signal.SIGKILL)
    os.waitpid(member, 0)


def test_what_was_seen_below_a_worker_ends_with_it(
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    watch = Helpers()
    parent = start("sh", "-c", "sleep 600 & echo $!; wait")
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    deadline = time.monotonic() + 20
    while Table().all[child].name != "sleep" and time.monotonic() < deadline:
        pass
    assert watch.look(NOW, {parent.pid: "worker 1"}) == []
    parent.kill()
    parent.wait()
    (left,) = watch.look(NOW + 1, {})
    assert (left.worker, left.helper.pid, left.helper.name) == ("worker 1", child, "sleep")
    assert watch.busy(NOW + 1)
    deadline = time.monotonic() + 20
    while child in Table().all and time.monotonic() < deadline:
        assert watch.look(NOW + 2, {}) == []
    assert child not in Table().all
    watch.look(NOW + 2, {})
    assert not watch.busy(NOW + 2)


def test_nothing_ends_with_a_worker_that_is_no_child_of_ours() -> None:
    """A number may be that of any process by now."""
    watch = Helpers()
    watch.look(NOW, {1: "worker 1"})
    assert watch.look(NOW + 1, {}) == []


def test_a_mark_is_read_from_what_was_started_with_it(
    start: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(helpers.MARK, "of another")
    helpers.mark_helpers()
    itself = Table().all[os.getpid()]
    process = start(*SLEEP)
    # While a process turns into another program it has no environment for a moment.
    deadline = time.monotonic() + 20
    while helpers.mark_of(process.pid) is None and time.monotonic() < deadline:
        time.sleep(0.001)
    assert helpers.mark_of(process.pid) == itself.identity
    assert helpers.mark_of(2**22 + 1) is None


@pytest.mark.parametrize(
    ("keep", "expected"), [((), False), (("sleep",), True), (("slee", "bash"), False)]
)
def test_a_helper_is_kept_by_its_name(
    start: Callable[..., subprocess.Popen[bytes]], keep: tuple[str, ...], expected: bool
) -> None:
    process = start(*SLEEP)
    assert helpers.kept(Table().all[process.pid], keep) is expected


@pytest.mark.parametrize("role", ["super", "templ", "w1", "w123456"])
def test_the_name_of_a_process_begins_with_litellm(
    start: Callable[..., subprocess.Popen[bytes]], role: str
) -> None:
    task = f"from {title.__name__} import name_process; name_process({role!r})"
    process = start(
        sys.executable, "-c", f"{task}; print(flush=True); __import__('time').sleep(600)"
    )
    assert process.stdout is not None
    process.stdout.readline()
    assert Table().all[process.pid].name == f"litellm-{role}"
