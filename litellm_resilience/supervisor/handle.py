"""The supervisor's view of one worker: a state machine around its process."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litellm_resilience.supervisor import exits, memory
from litellm_resilience.supervisor.growth import Growth
from litellm_resilience.supervisor.limits import MEGABYTE
from litellm_resilience.supervisor.policy import SERVING, Due, Worker, WorkerState
from litellm_resilience.supervisor.scoreboard import REASON_LENGTH
from litellm_resilience.supervisor.title import worker_name
from litellm_resilience.supervisor.trial import Answered, Seen

if TYPE_CHECKING:
    from litellm_resilience.supervisor.exits import Cause
    from litellm_resilience.supervisor.launch import WorkerProcess
    from litellm_resilience.supervisor.limits import Limits
    from litellm_resilience.supervisor.link import Said, SupervisorEnd
    from litellm_resilience.supervisor.scoreboard import Scoreboard

MUTE_MARGIN = 1.0
"""Seconds that a worker is given to name by itself what blocks its event loop."""
STACK_DUMP_SECONDS = 0.5
"""How long a worker that is about to be killed may print its stacks."""
POSTPONED = "; postponed: enough workers drain"
"""What the status adds to the reason."""


class Handle:
    """One worker.

    Args:
        number: identifies it.
        process: its process, started.
        link: the supervisor's end.
        limits: what it may do, hold and live.
        board: where it and its worker write about it.
        slot: the row that was claimed for it.
        now: seconds of the supervisor's clock.

    Attributes:
        state: where it is in its life.
        since: when it entered that state.
        ready_at: when it became ready.
        due: why it should be replaced; `reason` says it in words.
        killed_because: why it was killed, if it was.
        successor: the name of the worker that takes its place, if it is known.
        postponed: whether its replacement waits until fewer workers drain.
        misunderstood: whether it has said something that means nothing.
        records_lost: how many records it held when it ended.
        tells_growth: it is to tell what has grown whatever it is replaced for.
    """

    def __init__(
        self,
        number: int,
        process: WorkerProcess,
        link: SupervisorEnd,
        *,
        limits: Limits,
        board: Scoreboard,
        slot: int,
        now: float,
    ) -> None:
        self.number = number
        self.process = process
        self.link = link
        self.limits = limits
        self.state = WorkerState.BOOTING
        self.since = now
        self.ready_at: float | None = None
        self.due: Due | None = None
        self.reason = ""
        self.killed_because: str | None = None
        self.successor: str | None = None
        self.postponed = False
        self.misunderstood = False
        self.records_lost = 0
        self.tells_growth = False
        self._due_at = now
        self._board = board
        self.slot = slot
        self._row = board.row(slot)
        self._row.number, self._row.pid = number, process.pid or 0
        self._row.started_at = now
        self._row.request_limit = limits.requests or 0
        self._turned = 0.0
        self._turned_at = now
        self._kill_at: float | None = None
        self._told_mute = False

    @property
    def name(self) -> str:
        """How it is called in the log."""
        return worker_name(self.number, self.process.pid)

    @property
    def waitables(self) -> list[Any]:
        """What becomes readable when it says something or ends."""
        sentinel = self.process.sentinel
        return [
            *([self.link.connection] if self.link.open else []),
            *([] if sentinel is None else [sentinel]),
        ]

    @property
    def ended_as_asked(self) -> bool:
        """Whether it ended by itself, or by a signal that uvicorn raises again after its drain."""
        asked = (0, -signal.SIGTERM, -signal.SIGINT)
        return self.killed_because is None and self.process.exitcode in asked

    @property
    def requests(self) -> int:
        """How many requests it has answered."""
        return self._row.requests

    @property
    def seen(self) -> Seen:
        """What a trial compares."""
        counts = self._row.answered
        answered = Answered(counts.replies, counts.errors, counts.refusals, counts.seconds)
        return Seen(self.number, answered, self._row.in_flight)

    @property
    def memory(self) -> int:
        """Resident memory in bytes when last looked at."""
        return self._row.memory

    @property
    def boot(self) -> float:
        """Seconds it took to be ready; 0 before that."""
        return 0.0 if self.ready_at is None else self.ready_at - self._row.started_at

    @property
    def growth(self) -> Growth | None:
        """What it has told at its end of what it held more than at its fork."""
        return Growth.decoded(self._row.growth)

    def lose_held_records(self) -> None:
        """Note at its end what it has not sent."""
        self.records_lost = self._row.lose_held()

    def enter(self, state: WorkerState, now: float) -> float:
        """Change the state; return how many seconds the last one took."""
        took = now - self.since
        self.state, self.since = state, now
        self._row.state = state
        if state is WorkerState.RETIRING:
            self.postponed = False
            self._show_reason()
        if state is WorkerState.SERVING:
            self.ready_at = self._turned_at = self._row.ready_at = now
        return took

    def heard(self) -> list[Said]:
        """Return what the worker has said since the last call."""
        return self.link.heard()

    def observe(self, now: float) -> bool:
        """Look at its figures; say whether it has newly reached a limit.

        Args:
            now: seconds of the supervisor's clock.
        """
        if self._row.turned_at != self._turned:
            self._turned = self._row.turned_at
            self._turned_at = now
        if self.process.pid is None:
            return False
        self._row.memory = memory.resident(self.process.pid)
        if self.state is not WorkerState.SERVING:
            return False
        if self.limits.memory is not None and self.memory > self.limits.memory:
            held, allowed = self.memory // MEGABYTE, self.limits.memory // MEGABYTE
            return self.make_due(Due.MEMORY, f"holds {held} of {allowed} MB", now)
        if self.limits.lifetime is not None and self.ready_at is not None:
            age = now - self.ready_at
            if age >= self.limits.lifetime:
                return self.make_due(Due.LIFETIME, f"has served for {age:.0f} s", now)
        return False

    def reached_request_limit(self, now: float) -> bool:
        """Note that the worker said so; say whether that was news."""
        return self.make_due(Due.REQUESTS, f"has answered {self.requests} requests", now)

    def make_due(self, due: Due, reason: str, now: float) -> bool:
        """Note why it should be replaced; say whether that was news.

        A reason that is there already stays, but for memory, which does not wait.
        """
        if self.due is not None and (due is not Due.MEMORY or self.due is Due.MEMORY):
            return False
        self.due, self.reason, self._due_at = due, reason, now
        self._show_reason()
        return True

    def postpone(self) -> None:
        """Note that its replacement waits until fewer workers drain."""
        self.postponed = True
        self._show_reason(POSTPONED)

    def _show_reason(self, addition: str = "") -> None:
        self._row.reason = f"{self.reason}{addition}".encode()[:REASON_LENGTH]

    def forgive(self, seconds: float) -> None:
        """Do not count a time in which the supervisor itself stood still."""
        self._turned_at += seconds
        self.since += seconds

    def mute_for(self, now: float, slow_callback: float) -> float:
        """Return how long its event loop is blocked without a thread of it saying so, in seconds.

        It is told once; before and after that 0 is returned.

        Args:
            now: seconds of the supervisor's clock.
            slow_callback: seconds after which a thread of it would say so; 0 if none would.
        """
        serves = self.state in SERVING
        watches = slow_callback and self._row.watched_at
        silent = self._row.watched_at < self._row.turned_at + slow_callback
        stands_still = now - self._turned_at
        if self._told_mute or not (serves and watches and silent):
            return 0.0
        self._told_mute = stands_still > slow_callback + MUTE_MARGIN
        return stands_still if self._told_mute else 0.0

    def print_stacks(self) -> bool:
        """Have it print the stacks of its threads; say whether it can."""
        pid = self.process.pid
        can = pid is not None and _catches(pid, "SIGQUIT")
        if can:
            self.signal(signal.SIGQUIT)
        return can

    def drain(self) -> None:
        """Tell it to drain."""
        self.link.drain(tell=self.tells_growth or self.due is Due.MEMORY)

    def stop(self) -> None:
        """Ask it to end soon: the drain that a signal begins."""
        self.signal(signal.SIGTERM)

    def kill(self, reason: str, now: float) -> None:
        """Have it print its stacks, and kill it a moment later."""
        self.killed_because = reason
        if hasattr(signal, "SIGQUIT") and self.state is not WorkerState.BOOTING:
            self.signal(signal.SIGQUIT)
            self._kill_at = now + STACK_DUMP_SECONDS
        else:
            self.kill_now()

    def kill_if_due(self, now: float) -> None:
        """Kill it if its moment has passed."""
        if self._kill_at is not None and now >= self._kill_at:
            self.kill_now()

    def kill_now(self) -> None:
        """Kill it without delay."""
        with contextlib.suppress(OSError, AttributeError):
            self.process.kill()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        # Only the supervisor reaps it, so its number cannot have been taken by another process.
        if self.process.exitcode is None and self.process.pid is not None:
            with contextlib.suppress(OSError):
                os.kill(self.process.pid, number)

    def has_ended(self) -> bool:
        """Say whether the process has ended, and reap it."""
        return self.process.exitcode is not None

    @property
    def cause(self) -> Cause:
        """Why it ended, if that was unasked."""
        return exits.cause(
            self.process.exitcode,
            draining=self.state is WorkerState.DRAINING,
            killed=self.killed_because is not None,
        )

    def close(self) -> None:
        """Release what the supervisor holds for it."""
        self._board.release(self.slot)
        self.link.close()
        self.process.close()

    def view(self) -> Worker:
        """Return what the policy needs to know."""
        return Worker(
            number=self.number,
            state=self.state,
            since=self.since,
            ready_at=self.ready_at,
            turned_at=self._turned_at,
            due=self.due,
            due_at=self._due_at,
            memory=self.memory,
            doomed=self.killed_because is not None,
            postponed=self.postponed,
        )


def _catches(pid: int, name: str) -> bool:
    """Say whether a process has a handler for a signal; where that is unknown it has none."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    except (OSError, ValueError, IndexError):
        return False
    return bool(caught >> (getattr(signal, name) - 1) & 1)
