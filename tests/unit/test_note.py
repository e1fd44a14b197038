"""What workers leave for each other, and whose turn it is, with workers killed at any point."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
from collections.abc import Callable
from typing import Any

import pytest
from pytest_mock import MockerFixture

from litellm_resilience.supervisor import note as module
from litellm_resilience.supervisor.note import CAPACITY, TURN_SECONDS, Note
from litellm_resilience.supervisor.scoreboard import Scoreboard

TEXT = b"found: all well"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(mocker: MockerFixture) -> Clock:
    clock = Clock()
    mocker.patch("time.monotonic", clock)
    return clock


@pytest.fixture
def become(mocker: MockerFixture) -> Callable[[int], None]:
    """Let what follows be done by another process."""

    def turn_into(pid: int) -> None:
        mocker.patch("os.getpid", return_value=pid)

    return turn_into


@pytest.fixture(autouse=True)
def settle_at_once(mocker: MockerFixture) -> None:
    mocker.patch.object(module, "SETTLING_SECONDS", 0)


class TestText:
    def test_there_is_none_at_first(self) -> None:
        assert Note().read() is None

    def test_it_is_read_with_the_time_it_was_written(self, clock: Clock) -> None:
        note = Note()
        note.write(TEXT)
        clock.now += 50
        assert note.read() == (100.0, TEXT)

    def test_the_newest_replaces_the_others(self) -> None:
        note = Note()
        for text in (b"a longer text than the next", TEXT):
            note.write(text)
        read = note.read()
        assert read is not None
        assert read[1] == TEXT

    def test_zero_bytes_are_part_of_it(self) -> None:
        note = Note()
        note.write(b"\0a\0")
        read = note.read()
        assert read is not None
        assert read[1] == b"\0a\0"

    def test_one_that_does_not_fit_is_refused_and_the_old_one_stays(self) -> None:
        note = Note()
        note.write(TEXT)
        with pytest.raises(ValueError, match="more than"):
            note.write(b"x" * (CAPACITY + 1))
        read = note.read()
        assert read is not None
        assert read[1] == TEXT
        note.write(b"x" * CAPACITY)
        assert note.read() is not None

    @pytest.mark.parametrize("field", ["length", "checksum", "written_at", "content"])
    def test_half_a_text_is_none(self, field: str) -> None:
        note = Note()
        note.write(TEXT)
        if field == "content":
            note.content[0] ^= 1
        else:
            setattr(note, field, getattr(note, field) + 1)
        assert note.read() is None

    def test_a_length_beyond_its_room_is_no_text(self) -> None:
        note = Note()
        note.write(TEXT)
        note.length = 2**60
        assert note.read() is None

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_every_worker_of_a_scoreboard_has_the_same(self, method: str) -> None:
        context: Any = multiprocessing.get_context(method)
        board = Scoreboard.create(context, 1)
        worker = context.Process(target=_write, args=(board,))
        worker.start()
        worker.join(60)
        read = board.note.read()
        assert read is not None
        assert read[1] == TEXT


def _write(board: Scoreboard) -> None:
    board.note.write(TEXT)


class TestTurn:
    async def test_one_has_it_at_a_time(self, become: Callable[[int], None]) -> None:
        note = Note()
        become(1)
        async with note.turn() as first:
            become(2)
            async with note.turn() as second:
                assert (first, second) == (True, False)
            assert note.is_taken

    async def test_it_is_free_again_afterwards(self) -> None:
        note = Note()
        for _ in range(2):
            async with note.turn() as mine:
                assert mine
        assert not note.is_taken

    async def test_it_is_free_again_after_a_failure(self) -> None:
        note = Note()
        with pytest.raises(ZeroDivisionError):
            async with note.turn():
                raise ZeroDivisionError
        assert not note.is_taken

    async def test_of_two_that_take_it_at_once_one_has_it(
        self, become: Callable[[int], None]
    ) -> None:
        note = Note()
        got = []

        async def take(pid: int) -> None:
            become(pid)
            async with note.turn() as mine:
                got.append(mine)
                if mine:
                    await both.wait()

        both = asyncio.Event()
        tasks = [asyncio.create_task(take(pid)) for pid in (1, 2)]
        while len(got) < len(tasks):
            await asyncio.sleep(0)
        both.set()
        await asyncio.gather(*tasks)
        assert sorted(got) == [False, True]

    async def test_that_of_a_killed_worker_passes_on(self, clock: Clock) -> None:
        note = Note()
        note.writer, note.renewed_at = 1, clock.now
        async with note.turn() as mine:
            assert not mine
        clock.now += TURN_SECONDS
        async with note.turn() as mine:
            assert mine
            assert note.writer == os.getpid()

    async def test_it_is_renewed_meanwhile(self, clock: Clock, mocker: MockerFixture) -> None:
        mocker.patch.object(module, "RENEWAL_SECONDS", 0)
        note = Note()
        async with note.turn():
            clock.now += 5 * TURN_SECONDS
            while note.renewed_at < clock.now:
                await asyncio.sleep(0)
            assert note.is_taken

    async def test_whoever_took_it_over_keeps_it(self) -> None:
        note = Note()
        async with note.turn():
            note.writer = 77
        assert note.writer == 77


class TestDeeds:
    def test_what_was_never_done_is_due(self) -> None:
        assert Note().is_due(0, 10)

    def test_what_was_done_is_due_when_the_interval_has_passed(self, clock: Clock) -> None:
        note = Note()
        answers = []
        for _ in range(5):
            answers.append(note.is_due(0, 10))
            clock.now += 5
        assert answers == [True, False, True, False, True]

    def test_each_is_remembered_on_its_own(self) -> None:
        note = Note()
        assert [note.is_due(deed, 10) for deed in (0, 1, 0, 1)] == [True, True, False, False]


def test_the_size_is_bounded() -> None:
    assert ctypes.sizeof(Note) < 520 * 1024
