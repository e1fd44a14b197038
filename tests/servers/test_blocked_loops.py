"""What blocks an event loop has a name, while it does."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from supervised import Service

BLOCKED = re.compile(
    r"^Worker 1 \(pid (\d+)\) is blocked: its event loop has stood still for [\d.]+ s in "
    r"small_service:(\w+):\d+; (small_service:.+)$",
    re.MULTILINE,
)


def blocks(service: Service) -> int:
    """Return how often the small service has blocked an event loop."""
    counted: int = service.status()["totals"]["event_loop_blocks"].get("small_service", 0)
    return counted


def block(service: Service, path: str, times: int) -> None:
    """Block the loop until that was noticed so many times more."""
    client, wanted = service.client(), blocks(service) + times
    service.wait(lambda: client.get(path) and blocks(service) >= wanted, f"notice of {path}")
    client.close()


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_what_blocks_a_loop_is_named_once_and_always_counted(service: Service, start: str) -> None:
    """Code that keeps Python's lock can be named only when it returns."""
    service.start(workers=1, start=start, settings={"slow_callback": 0.2})
    (worker,) = service.living()
    block(service, "/block/0.5", times=2)
    block(service, "/spin/0.5", times=2)
    block(service, "/hold/0.5", times=1)
    service.client().begin("/wait/0.5")()
    found = BLOCKED.findall(service.log())
    assert {int(pid) for pid, _, _ in found} == {worker}
    assert Counter(function for _, function, _ in found) == {"app": 1, "spin": 1, "hold": 1}
    assert all(" < small_service:app:" in stack for _, _, stack in found[1:])


def test_it_is_named_while_it_blocks(service: Service) -> None:
    service.start(workers=1, settings={"slow_callback": 0.2})
    service.client().begin("/block/600")
    service.wait(lambda: BLOCKED.search(service.log()), "name")
    assert "with all its threads" not in service.log()


def test_stacks_are_printed_where_no_thread_can_name_it(service: Service) -> None:
    service.start(workers=1, settings={"slow_callback": 0.2})
    service.client().begin("/hold/600")
    service.wait_log("with all its threads: the stacks that it prints now say where")
    service.wait_log(" in hold")
    assert len(service.living()) == 1


def test_nothing_is_watched_where_that_is_not_wanted(service: Service) -> None:
    service.start(workers=1, settings={"slow_callback": 0})
    client = service.client()
    client.get("/block/0.5")
    client.get("/block/0.5")
    assert "blocked" not in service.log()
    assert service.status()["totals"]["event_loop_blocks"] == {}
