"""Processes that a worker has started, and their end with it.

A process belongs to a worker if it was seen below it, or carries the worker's mark in its
environment, or came to this process, the subreaper, together with the worker's end. Nothing else is
touched. Found in `/proc`: on systems without it nothing is done.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from litellm_resilience.supervisor import prctl

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

MARK = "LITELLM_RESILIENCE_WORKER"
"""The environment variable that says which worker has started a process."""
GRACE = 2.0
"""Seconds from SIGTERM to SIGKILL for a helper whose worker has ended."""
LAST_GRACE = 1.0
"""The same while a worker ends, or gunicorn's master waits."""
LOOK_SHARE = 0.01
"""The share of its time that a supervisor may spend on looking at processes."""
UNCLAIMED = 10.0
"""Seconds after which a dead child that nobody has asked for is taken for an orphan's."""


class Process(NamedTuple):
    """A process; the time of its start tells it from another with its number."""

    pid: int
    started: int
    parent: int
    dead: bool
    name: str
    group: int

    @property
    def identity(self) -> str:
        """What no other process is."""
        return f"{self.pid}.{self.started}"


class Left(NamedTuple):
    """A helper that had to be ended.

    Args:
        worker: the name of the worker that had started it.
        helper: the process.
    """

    worker: str
    helper: Process


class Table:
    """All processes as they are now."""

    def __init__(self) -> None:
        self.all = {process.pid: process for process in _processes()}
        self._children: dict[int, list[Process]] = defaultdict(list)
        for process in self.all.values():
            self._children[process.parent].append(process)

    def children(self, pid: int) -> list[Process]:
        """Return the children of a process."""
        return self._children.get(pid, [])

    def below(self, pid: int, passing: Callable[[Process], bool] | None = None) -> list[Process]:
        """Return the descendants of a process.

        Args:
            pid: its number.
            passing: which to pass over, together with their descendants.
        """
        found = []
        waiting = [pid]
        while waiting:
            for child in self.children(waiting.pop()):
                if passing is None or not passing(child):
                    found.append(child)
                    waiting.append(child.pid)
        return found


class Helpers:
    """What the workers of this process have started.

    Makes this process the one that orphans come to. What it has started before this is nobody's
    helper; to be made before the first worker.

    Args:
        keep: names of helpers that may outlive their worker.
    """

    def __init__(self, keep: Collection[str] = ()) -> None:
        prctl.become_subreaper()
        self._keep = frozenset(keep)
        table = Table()
        self._own = {child.identity for child in table.children(os.getpid())}
        self._spared = {process.identity for process in table.below(os.getpid())}
        self._left: set[int] = set()
        self._newcomers: set[str] = set()
        self._unclaimed: dict[str, float] = {}
        self._owners: dict[str, str] = {}
        self._marks: dict[str, str] = {}
        self._living: dict[int, str] = {}
        self._deadlines: dict[str, float] = {}
        self._look_at = 0.0

    def leave(self, pid: int) -> None:
        """Leave a process alone, its process group and its exit status; no worker has started it.

        Args:
            pid: its number.
        """
        process = _process(pid)
        if process is not None:
            self._spared.add(process.identity)
            self._own.add(process.identity)
            self._left.add(pid)

    def busy(self, now: float) -> bool:
        """Say whether helpers without a worker are still being ended."""
        return any(now < deadline + GRACE for deadline in self._deadlines.values())

    def look(self, now: float, living: Mapping[int, str]) -> list[Left]:
        """Note what workers have started; end what is left of those that have ended.

        Does not block. Does nothing if it was called a moment ago and no worker has begun or ended
        since.

        Args:
            now: monotonic seconds.
            living: the names of the workers that live, by their numbers.

        Returns:
            What was newly asked to end.
        """
        ended = {name for pid, name in self._living.items() if living.get(pid) != name}
        # A worker that ends before it was ever looked at would leave helpers that are nobody's.
        begun = living.keys() - self._living.keys()
        if not ended and not begun and not self._deadlines and now < self._look_at:
            return []
        began = time.thread_time()
        table = Table()
        self._note(table, now, living, ended)
        left = self._end(table, now, set(living.values()))
        self._living = dict(living)
        self._look_at = now + (time.thread_time() - began) / LOOK_SHARE
        return left

    def kill(self) -> None:
        """Kill what is known of all workers."""
        table = Table()
        for process in table.below(os.getpid()):
            if process.identity in self._owners and not self._kept(process):
                signal_process(process, signal.SIGKILL)

    def _note(self, table: Table, now: float, living: Mapping[int, str], ended: set[str]) -> None:
        """Find out whose each process below this one is."""
        ours = {process.pid: process for process in table.below(os.getpid())}
        workers = {pid: name for pid, name in living.items() if pid in ours}
        known = {pid: name for pid, name in living.items() if name in self._marks.values()}
        ended |= {name for pid, name in known.items() if pid not in ours or ours[pid].dead}
        self._marks |= {ours[pid].identity: name for pid, name in workers.items()}
        roots = list(workers.items())
        for orphan in adopted({*living, *own_children()}, table):
            owner = self._owners.get(orphan.identity) or self._owner(orphan, ended)
            if owner is not None:
                self._owners[orphan.identity] = owner
                roots.append((orphan.pid, owner))
            elif orphan.dead and orphan.identity not in self._own:
                reap_at = self._unclaimed.setdefault(orphan.identity, now + UNCLAIMED)
                if now >= reap_at:
                    _reap(orphan)
        for pid, owner in roots:
            for helper in table.below(pid, self._kept):
                self._owners.setdefault(helper.identity, owner)
        there = {process.identity for process in ours.values()}
        for noted in (self._owners, self._deadlines, self._unclaimed):
            for identity in noted.keys() - there:
                del noted[identity]
        self._spared &= there
        self._own &= there
        self._left &= ours.keys()
        self._newcomers &= there
        self._marks = {m: name for m, name in self._marks.items() if name in living.values()}

    def _owner(self, orphan: Process, ended: Collection[str]) -> str | None:
        """Return the name of the worker whose an orphan was, if that can be told."""
        if orphan.identity in self._spared or orphan.group in self._left or self._kept(orphan):
            return None
        owner = self._marks.get(mark_of(orphan.pid) or "") or next(iter(ended), None)
        if owner is None and not orphan.dead:
            # It may be about to get its mark, or its worker about to be seen dead.
            again = orphan.identity in self._newcomers
            (self._spared if again else self._newcomers).add(orphan.identity)
        return owner

    def _end(self, table: Table, now: float, living: Collection[str]) -> list[Left]:
        left = []
        for process in table.below(os.getpid()):
            owner = self._owners.get(process.identity)
            if owner is None:
                continue
            if process.dead and process.parent == os.getpid():
                _reap(process)
            elif process.dead or owner in living or self._kept(process):
                continue
            elif process.identity not in self._deadlines:
                self._deadlines[process.identity] = now + GRACE
                signal_process(process, signal.SIGTERM)
                left.append(Left(owner, process))
            elif now >= self._deadlines[process.identity]:
                signal_process(process, signal.SIGKILL)
        return left

    def _kept(self, process: Process) -> bool:
        return kept(process, self._keep)


def adopted(known: Collection[int], table: Table | None = None) -> list[Process]:
    """Return the children of this process but for those known to be its own.

    Args:
        known: the numbers of its own children.
        table: the processes, if they have been looked at.
    """
    table = table or Table()
    return [child for child in table.children(os.getpid()) if child.pid not in known]


def group(leader: int) -> list[Process]:
    """Return what lives of a process group, but for its leader and what workers have started.

    Args:
        leader: the number of the one that has begun it.
    """
    return [
        process
        for process in Table().all.values()
        if process.group == leader != process.pid
        and not process.dead
        and mark_of(process.pid) is None
    ]


def own_children() -> set[int]:
    """Return the numbers of what multiprocessing has started here."""
    return {child.pid for child in multiprocessing.active_children() if child.pid is not None}


def kept(process: Process, keep: Collection[str]) -> bool:
    """Say whether a helper may outlive its worker.

    Args:
        process: the helper.
        keep: names, each as `ps -o comm` shows it or the command's file name.
    """
    if not keep:
        return False
    command = _read(process.pid, "cmdline").partition(b"\0")[0]
    return process.name in keep or Path(os.fsdecode(command)).name in keep


def mark_helpers(mark: str | None = None) -> None:
    """Mark what this process starts from now on.

    Args:
        mark: with what; by default the identity of this process.
    """
    if mark is None:
        process = _process(os.getpid())
        mark = process.identity if process else None
    if mark is not None:
        os.environ[MARK] = mark


def mark_of(pid: int) -> str | None:
    """Return the mark of a process, if it has one and can be asked."""
    beginning = f"{MARK}=".encode()
    for variable in _read(pid, "environ").split(b"\0"):
        if variable.startswith(beginning):
            return os.fsdecode(variable[len(beginning) :])
    return None


def end_own(keep: Collection[str] = ()) -> None:
    """End what this worker has started, waiting for it up to a second; called at its end.

    Args:
        keep: names of helpers that may outlive it.
    """
    itself = _process(os.getpid())
    if itself is not None:
        _end_all(lambda: _below_or_marked(itself, keep))


def end_marked(belongs: Callable[[str], bool], keep: Collection[str] = ()) -> list[Process]:
    """End what carries certain marks, waiting for it up to a second; reap what has become ours.

    Args:
        belongs: says whether a mark is one of them.
        keep: names of helpers that may outlive it.

    Returns:
        What had to be ended.
    """
    ended = _end_all(lambda: _marked(Table(), belongs, keep))
    for process in ended:
        _reap(process)
    return ended


def _below_or_marked(worker: Process, keep: Collection[str]) -> list[Process]:
    table = Table()
    found = table.below(worker.pid, lambda process: kept(process, keep))
    # An orphan is below the supervisor, if that still lives.
    return list({*found, *_marked(table, worker.identity.__eq__, keep)} - {worker})


def _marked(table: Table, belongs: Callable[[str], bool], keep: Collection[str]) -> list[Process]:
    return [
        process
        for process in table.all.values()
        if belongs(mark_of(process.pid) or "") and not kept(process, keep)
    ]


def _end_all(find: Callable[[], Iterable[Process]]) -> list[Process]:
    """End what is found, and what it starts meanwhile."""
    asked: dict[str, Process] = {}
    deadline = time.monotonic() + LAST_GRACE
    while living := [process for process in find() if not process.dead]:
        late = time.monotonic() >= deadline
        for process in living:
            if late or process.identity not in asked:
                signal_process(process, signal.SIGKILL if late else signal.SIGTERM)
                asked[process.identity] = process
        if late:
            break
        time.sleep(0.01)
    return list(asked.values())


def signal_process(process: Process, number: int) -> None:
    """Send a signal to a process, unless another one has its number by now."""
    now = _process(process.pid)
    if now is not None and now.started == process.started:
        with suppress(OSError):
            os.kill(process.pid, number)


def _reap(process: Process) -> None:
    with suppress(OSError):
        os.waitpid(process.pid, os.WNOHANG)


def _processes() -> Iterator[Process]:
    if sys.platform != "linux":
        return
    with suppress(OSError):
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and (process := _process(int(entry.name))):
                yield process


def _process(pid: int) -> Process | None:
    before, _, after = _read(pid, "stat").rpartition(b")")
    fields = after.split()
    if not fields:
        return None
    name = os.fsdecode(before.partition(b"(")[2])
    return Process(pid, int(fields[19]), int(fields[1]), fields[0] in b"ZX", name, int(fields[2]))


def _read(pid: int, what: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:
        return b""
