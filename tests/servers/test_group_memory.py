"""Workers that leak, in a group of processes with a memory limit: folders that look like one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from supervised import Service

from litellm_resilience.supervisor import memory
from litellm_resilience.supervisor.limits import MEGABYTE

CLIENTS = 2
RECYCLES = 5
DUE = " MB, will be replaced"
LIMIT = 300


class Group:
    """A group whose memory is that of some processes, whatever the kernel counts.

    Args:
        root: where its files are.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.highest = 0
        self.others = 0
        """Bytes that other processes hold."""
        self._folder = root / "sys/fs/cgroup"
        self._folder.mkdir(parents=True)
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/cgroup").write_text("0::/\n")
        mount = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
        (root / "proc/self/mountinfo").write_text(mount)
        self.hold(0)

    def limit(self, megabytes: int) -> None:
        (self._folder / "memory.max").write_text(f"{megabytes * MEGABYTE}\n")

    def hold(self, used: int) -> None:
        """Say how many bytes are used."""
        self.highest = max(self.highest, used)
        new = self._folder / "new"
        new.write_text(f"{used}\n")
        new.rename(self._folder / "memory.current")

    def follow(self, processes: Callable[[], list[int]], ended: threading.Event) -> None:
        """Say what these processes hold until an event."""
        while not ended.wait(0.02):
            self.hold(self.others + sum(map(memory.private, processes())))


@pytest.fixture
def group(tmp_path: Path) -> Group:
    return Group(tmp_path / "root")


@pytest.fixture
def limited(service: Service, group: Group) -> Iterator[Callable[[int], None]]:
    """Start two workers in a group that holds what they do, with this limit in MiB."""
    ended = threading.Event()
    followers: list[threading.Thread] = []

    def start(megabytes: int) -> None:
        group.limit(megabytes)
        recycling = {"within_group": True, "group_root": str(group.root)}
        service.start(workers=2, recycling=recycling, settings={"min_lifetime": 0})
        processes = lambda: [service.process.pid, *service.ever_started()]  # noqa: E731
        followers.append(threading.Thread(target=group.follow, args=(processes, ended)))
        followers[0].start()

    yield start
    ended.set()
    for follower in followers:
        follower.join()


def test_leaking_workers_are_replaced_before_the_limit_and_no_request_is_lost(
    service: Service, group: Group, limited: Callable[[int], None]
) -> None:
    """Two megabytes for each request, and clients that never repeat one."""
    limited(LIMIT)

    def leak() -> int:
        answered = 0
        client = service.client()
        while service.count(DUE) < RECYCLES:
            client.get("/hoard/2/0.05")
            answered += 1
            if client.told_to_close:
                client.close()
                client = service.client()
        return answered

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(leak) for _ in range(CLIENTS)]
        answered = sum(client.result() for client in clients)
    assert answered > RECYCLES
    totals = service.status()["totals"]
    assert totals["recycled"]["memory"] >= RECYCLES - 1
    assert not any(totals["died"].values())
    assert group.highest < LIMIT * MEGABYTE


def test_while_memory_is_short_no_connection_is_kept_alive(
    service: Service, group: Group, limited: Callable[[int], None]
) -> None:
    """Here other processes hold it all, so that replacing a worker would free nothing."""
    group.others = 1000 * MEGABYTE
    limited(1050)

    def replies(*, closing: bool) -> Callable[[], bool]:
        def told() -> bool:
            client = service.client()
            client.get()
            client.close()
            return client.told_to_close is closing

        return told

    service.wait(replies(closing=True), "reply that closes its connection")
    group.limit(4000)
    service.wait(replies(closing=False), "reply that keeps its connection")


def test_a_limit_that_cannot_be_read_is_said_once_and_costs_nothing(
    service: Service, group: Group, limited: Callable[[int], None]
) -> None:
    limited(4000)
    service.wait_log("All processes may hold 4000 MB")
    (group.root / "sys/fs/cgroup/memory.max").write_text("much\n")
    service.wait_log("No worker is replaced for its memory: ")
    assert service.client().pid()
    group.limit(3000)
    service.wait_log("All processes may hold 3000 MB")
    assert service.count("No worker is replaced for its memory: ") == 1
