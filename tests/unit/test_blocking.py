"""The name of what blocks an event loop."""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from litellm_resilience.supervisor.blocking import Place, culprit, stack_above_loop
from litellm_resilience.supervisor.scoreboard import BLOCKERS, Row, Scoreboard


def place(module: str) -> Place:
    return Place(module, "f", 1)


@pytest.mark.parametrize(
    ("modules", "guilty"),
    [
        (["callbacks"], "callbacks"),
        (
            ["socket", "urllib3.connection", "requests.api", "callbacks", "litellm.main"],
            "callbacks",
        ),
        (["re", "litellm.utils", "callbacks", "starlette.routing"], "litellm.utils"),
        (["ssl", "requests.api", "starlette.routing", "asyncio.events"], "requests.api"),
        (["selectors", "subprocess"], "selectors"),
    ],
)
def test_the_culprit_is_who_asked_for_it(modules: list[str], guilty: str) -> None:
    """Neither of Python nor of a carrier, unless nobody else is there."""
    assert culprit([place(module) for module in modules]).module == guilty


class Looping:
    """An event loop in another thread that waits, or is blocked, until it is told to end."""

    def __init__(self, kind: str, coroutine: Callable[[], Coroutine[Any, Any, None]]) -> None:
        run = pytest.importorskip(kind).run
        self._thread = threading.Thread(target=lambda: run(coroutine()), daemon=True)
        self._thread.start()

    def wait_until(self, condition: Callable[[list[Place]], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition(stack := self.stack()):
            assert time.monotonic() < deadline, stack
            time.sleep(0.001)

    def stack(self) -> list[Place]:
        return stack_above_loop(sys._current_frames().get(self._thread.ident or 0))


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_loop_that_waits_is_not_blocked(kind: str) -> None:
    began, end = threading.Event(), threading.Event()

    async def wait() -> None:
        began.set()
        while not end.is_set():
            await asyncio.sleep(0.05)

    looping = Looping(kind, wait)
    assert began.wait(20)
    looping.wait_until(lambda stack: stack == [])
    end.set()


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_the_stack_ends_where_the_loop_begins(kind: str) -> None:
    end = threading.Event()

    async def inner() -> None:
        end.wait(20)

    async def outer() -> None:
        await inner()

    looping = Looping(kind, outer)
    looping.wait_until(lambda stack: [p for p in stack if p.function == "wait"] != [])
    stack = looping.stack()
    end.set()
    assert culprit(stack)[:2] == (__name__, "inner")
    assert {p.module for p in stack} <= {"threading", __name__, "asyncio.events"}


def make_row() -> Row:
    board = Scoreboard.create(multiprocessing.get_context("spawn"), capacity=1)
    return board.row(board.claim())


def test_modules_are_counted_under_a_bounded_number_of_names() -> None:
    board = Scoreboard.create(multiprocessing.get_context("spawn"), capacity=2)
    for slot in (board.claim(), board.claim()):
        for number in range(2 * BLOCKERS):
            board.row(slot).count_block(f"m{number}")
    counted = board.blocks()
    assert counted == {**{f"m{n}": 2 for n in range(BLOCKERS - 1)}, "other": 2 * (BLOCKERS + 1)}


def test_counts_of_a_row_go_on_with_its_next_worker() -> None:
    board = Scoreboard.create(multiprocessing.get_context("spawn"), capacity=1)
    slot = board.claim()
    board.row(slot).count_block("callbacks")
    board.release(slot)
    board.row(board.claim()).count_block("callbacks")
    assert board.blocks() == {"callbacks": 2}


def test_a_name_of_any_length_and_letters_is_counted() -> None:
    row = make_row()
    row.count_block("ü" * 200)
    row.count_block("\udcff")
    assert [blocker.times for blocker in row.blockers][:2] == [1, 1]
