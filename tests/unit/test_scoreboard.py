"""The rows that supervisor and workers share, and what a worker writes there."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import logging
import math
import multiprocessing
import os
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from litellm_resilience.session.keeper import Counters
from litellm_resilience.status import table
from litellm_resilience.status.document import document, event_loop_lag
from litellm_resilience.supervisor.drain import TICK
from litellm_resilience.supervisor.exits import Cause
from litellm_resilience.supervisor.figures import LAG_WINDOW, Figures
from litellm_resilience.supervisor.handle import Handle
from litellm_resilience.supervisor.journal import Journal
from litellm_resilience.supervisor.limits import Limits
from litellm_resilience.supervisor.link import Link
from litellm_resilience.supervisor.policy import Demand, Due, Settings, WorkerState, decide
from litellm_resilience.supervisor.scoreboard import SINKS, Row, Scoreboard

CONTEXT = multiprocessing.get_context("spawn")


def make(capacity: int = 3) -> Scoreboard:
    return Scoreboard.create(CONTEXT, capacity)


def write(board: Scoreboard, slot: int, answered: int, session: Counters | None = None) -> None:
    """Let the worker that has this row, begun just now, say how far it has come."""
    Figures(board.row(slot), TICK).turned(1.0, answered, 0, session or Counters())


class TestRows:
    def test_a_new_board_is_empty(self) -> None:
        assert list(make().living()) == []

    def test_each_worker_gets_a_row_of_its_own(self) -> None:
        board = make()
        assert [board.claim() for _ in range(3)] == [0, 1, 2]
        assert [row.state for _, row in board.living()] == [WorkerState.BOOTING] * 3

    def test_a_full_board_refuses(self) -> None:
        """As the operating system refuses a process: the supervisor tries again later."""
        board = make(1)
        board.claim()
        with pytest.raises(OSError, match="all 1 rows for workers are in use"):
            board.claim()

    def test_a_row_is_used_again_by_a_worker_that_starts_from_nothing(self) -> None:
        board = make(1)
        slot = board.claim()
        row = board.row(slot)
        write(board, slot, 7)
        row.reason, row.memory, row.ready_at = b"old", 5, 3.0
        board.release(slot)
        assert board.claim() == slot
        assert (row.generation, row.requests, row.reason) == (2, 0, b"")
        assert (row.memory, row.ready_at, row.lag) == (0, 0.0, 0.0)
        assert board.counted()["requests"] == 7
        write(board, slot, 2)
        assert (row.requests, board.counted()["requests"]) == (2, 9)

    @pytest.mark.parametrize("state", list(WorkerState))
    def test_a_state_is_read_as_it_was_written(self, state: WorkerState) -> None:
        board = make(1)
        row = board.row(board.claim())
        row.state = state
        assert row.state is state

    @given(st.lists(st.tuples(st.sampled_from(["claim", "release", "count"]), st.integers(0, 3))))
    @example([("claim", 0), ("count", 0), ("release", 0), ("claim", 0), ("count", 0)])
    def test_no_sum_ever_goes_down(self, steps: list[tuple[str, int]]) -> None:
        """Whatever workers come and go: the counts of the ones that went stay."""
        board = make(4)
        own: dict[int, Counters] = {}
        answered: dict[int, int] = {}
        expected = 0
        for step, number in steps:
            if step == "claim" and len(own) < 4:
                slot = board.claim()
                own[slot], answered[slot] = Counters(), 0
            elif step == "release" and number in own:
                board.release(number)
                del own[number]
            elif step == "count" and number in own:
                own[number].recreated += 1
                answered[number] += 2
                expected += 1
                write(board, number, answered[number], own[number])
            counted = board.counted()
            assert (counted["sessions_recreated"], counted["requests"]) == (expected, 2 * expected)


FIGURES = vars(Row)["growth"].offset
"""Bytes of a row without the last field, a text that is too long to be drawn at random."""


class TestGarbage:
    """A worker shares the memory, and may be broken."""

    @settings(max_examples=100)
    @given(
        garbage=st.binary(min_size=FIGURES, max_size=FIGURES),
        since=st.floats(allow_nan=True, allow_infinity=True),
    )
    @example(b"\xff" * ctypes.sizeof(Row), math.nan)
    @example(b"\x00" * ctypes.sizeof(Row), -math.inf)
    def test_a_row_of_anything_is_shown_and_used_again(self, garbage: bytes, since: float) -> None:
        board = make(2)
        slot, other = board.claim(), board.claim()
        ctypes.memmove(ctypes.addressof(board.row(slot)), garbage, len(garbage))
        board.row(slot).lag = board.row(slot).turned_at = since
        for state_code in (board.row(slot).state_code, 2):
            board.row(slot).state_code = state_code
            state = document(board, Journal(logging.getLogger()), 1, 4000, 100.0)
            told = json.dumps(state, allow_nan=False)
            assert all(line.isprintable() for line in table.render(json.loads(told)).splitlines())
            assert other in [worker["slot"] for worker in state["workers"]]
            exposed(board)
        with pytest.raises(BlockingIOError):
            board.claim()
        board.release(slot)
        assert board.claim() == slot
        assert board.row(slot).requests == 0

    @given(st.integers(len(WorkerState) + 1, 2**64 - 1))
    def test_a_row_in_an_impossible_state_is_not_given_away(self, code: int) -> None:
        board = make(1)
        board.row(board.claim()).state_code = code
        assert list(board.living()) == []
        with pytest.raises(BlockingIOError):
            board.claim()

    @pytest.mark.parametrize("turned_at", [math.nan, math.inf, -math.inf, -1e308, 1e308])
    def test_the_policy_goes_on(self, turned_at: float) -> None:
        board = make(1)
        handle = handle_of(board, board.claim())
        handle.enter(WorkerState.SERVING, 1.0)
        row = board.row(0)
        row.turned_at = turned_at
        row.counts.requests, row.before.requests, row.memory = 0, 2**64 - 1, 2**64 - 1
        assert handle.observe(2.0) is False
        assert decide(3.0, [handle.view()], Settings(), Demand(target=1)) == []
        assert handle.reached_request_limit(3.0)


def handle_of(board: Scoreboard, slot: int) -> Handle:
    """Return the supervisor's view of a worker that is this process."""
    process = SimpleNamespace(pid=os.getpid(), exitcode=None, sentinel=0)
    link = Link.create(CONTEXT).supervisor
    return Handle(1, process, link, limits=Limits(1), board=board, slot=slot, now=0.0)


def exposed(board: Scoreboard) -> str:
    """Return the board as Prometheus reads it, where its client library is installed."""
    if importlib.util.find_spec("prometheus_client") is None:
        return ""
    from prometheus_client import CollectorRegistry, generate_latest

    from litellm_resilience.status.metrics import ScoreboardCollector

    registry = CollectorRegistry()
    registry.register(ScoreboardCollector(board))
    return generate_latest(registry).decode()


class TestRecords:
    def test_what_is_held_is_known_by_sink_and_lost_at_the_end(self) -> None:
        board = make(1)
        row = board.row(board.claim())
        row.hold({"box": 3, "spend": 2})
        row.hold({"spend": 4})
        assert row.records == 4
        assert board.lost_records() == {}
        assert row.lose_held() == 4
        assert (row.records, board.lost_records()) == (0, {"spend": 4})

    def test_losses_go_on_in_the_next_worker_of_a_row(self) -> None:
        board = make(1)
        slot = board.claim()
        board.row(slot).lose({"box": 1})
        board.release(slot)
        row = board.row(board.claim())
        row.hold({"spend": 1, "box": 5})
        row.lose({"box": 2})
        assert (row.records, board.lost_records()) == (6, {"box": 3})

    def test_more_sinks_than_have_a_name_count_under_the_last(self) -> None:
        board = make(1)
        row = board.row(board.claim())
        held = {f"sink {number}": 1 for number in range(SINKS + 3)}
        row.hold(held)
        assert row.records == len(held)
        row.lose_held()
        lost = board.lost_records()
        assert len(lost) == SINKS
        assert lost[f"sink {SINKS - 1}"] == 4


class TestTotals:
    def test_recycles_and_deaths_are_counted_by_kind(self) -> None:
        totals = make().totals
        totals.count_recycled(Due.MEMORY)
        totals.count_died(Cause.HANG)
        totals.count_died(Cause.HANG)
        assert list(totals.recycled) == [0, 1, 0, 0]
        assert list(totals.died) == [0, 0, 2, 0]

    @pytest.mark.parametrize(("seconds", "bucket"), [(0.01, 0), (0.05, 0), (0.06, 1), (1e6, 13)])
    def test_a_time_is_counted_in_the_bucket_it_does_not_exceed(
        self, seconds: float, bucket: int
    ) -> None:
        boot = make().totals.boot
        boot.observe(seconds)
        assert [i for i, count in enumerate(boot.counts) if count] == [bucket]
        assert boot.sum == seconds


class TestLag:
    def turn(self, *times: float) -> float:
        """Return the lag after an event loop has turned at these times."""
        board = make(1)
        row = board.row(board.claim())
        row.state = WorkerState.SERVING
        figures = Figures(row, TICK)
        for now in times:
            figures.turned(now, 0, 0, Counters())
        return row.lag

    def test_a_loop_in_time_has_none(self) -> None:
        assert self.turn(10.0, 10.1, 10.2) == pytest.approx(0.0, abs=1e-9)

    def test_the_first_turn_says_nothing(self) -> None:
        assert self.turn(1e6) == 0.0

    def test_the_longest_delay_is_remembered(self) -> None:
        assert self.turn(10.0, 12.1, 12.7, 12.8) == pytest.approx(2.0)

    def test_a_longer_one_takes_its_place(self) -> None:
        assert self.turn(10.0, 11.1, 14.2) == pytest.approx(3.0)

    def test_it_is_forgotten_after_a_while(self) -> None:
        later = [12.1 + LAG_WINDOW + i * TICK for i in range(1, 3)]
        quiet = [12.1 + i * TICK for i in range(1, int(LAG_WINDOW / TICK) + 1)]
        assert self.turn(10.0, 12.1, *quiet, *later) == pytest.approx(0.0, abs=1e-6)

    def test_a_loop_that_stands_still_now_shows(self) -> None:
        board = make(1)
        row = board.row(board.claim())
        row.state = WorkerState.SERVING
        Figures(row, TICK).turned(10.0, 0, 0, Counters())
        assert event_loop_lag(row, 10.2) == 0.0
        assert event_loop_lag(row, 40.0) > 29.0

    def test_a_worker_that_does_not_serve_yet_is_not_late(self) -> None:
        board = make(1)
        assert event_loop_lag(board.row(board.claim()), 1e6) == 0.0
