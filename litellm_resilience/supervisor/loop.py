"""The supervisor: starts workers, reads their messages, and does what the policy decides."""

from __future__ import annotations

import contextlib
import math
import multiprocessing.connection
import random
import signal
import socket
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from litellm_resilience.supervisor import exits, policy
from litellm_resilience.supervisor.figures import nothing_held
from litellm_resilience.supervisor.handle import Handle
from litellm_resilience.supervisor.headroom import GroupWatch
from litellm_resilience.supervisor.helpers import Helpers
from litellm_resilience.supervisor.journal import counted
from litellm_resilience.supervisor.launch import NotYetError
from litellm_resilience.supervisor.link import Link, Said
from litellm_resilience.supervisor.output import lossy_output
from litellm_resilience.supervisor.policy import SERVING, Due, WorkerState
from litellm_resilience.supervisor.restarts import Restarts
from litellm_resilience.supervisor.takeover import UpgradeError
from litellm_resilience.supervisor.trial import Trial
from litellm_resilience.supervisor.upgrade import Upgrade
from litellm_resilience.supervisor.worker import Assignment

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from uvicorn.config import Config

    from litellm_resilience.supervisor.figures import Held, SessionCounts
    from litellm_resilience.supervisor.journal import Journal
    from litellm_resilience.supervisor.launch import Launcher, WorkerProcess
    from litellm_resilience.supervisor.limits import Limits, Recycling
    from litellm_resilience.supervisor.scoreboard import Scoreboard


LOOK_INTERVAL = 0.5
"""Seconds after which the supervisor looks at its workers even if none says anything."""
SUSPENDED_GAP = 5.0
"""A gap between two looks that means the supervisor was suspended, in seconds."""
STOP_MARGIN = 10.0
"""Seconds that a worker may take to shut its application down after its drain and flush."""
HEIR_GRACE = 30.0
"""Seconds for requests in flight when nobody serves, if uvicorn is not told how many.

As LiteLLM 1.108 and later have it."""
DRAINING, STOPPING = "draining", "stopping"


class Service(Protocol):
    """What the supervisor does beside supervising; nothing of it may block."""

    @property
    def waitables(self) -> Sequence[Any]:
        """What becomes readable when there is something to do."""

    def attend(self, now: float, inherited: Sequence[Any]) -> None:
        """Do what is to be done now.

        Args:
            now: seconds of the supervisor's clock.
            inherited: what a process that is forked here must not keep open.
        """

    def close(self) -> None:
        """Release what belongs to the supervisor; called in each forked worker."""

    def end(self) -> None:
        """End with the supervisor."""


UPGRADE_BOOTS = 2
"""A new proxy has this many times the boot timeout: for its command, and for its workers."""
TEMPLATE_LOST = "the template has ended and could not be loaded again"


@dataclass(frozen=True)
class Plan:
    """How many workers to keep, and how.

    Args:
        workers: how many should serve.
        settings: how they are supervised.
        recycling: the limits they draw theirs from.
        session_counts: returns what a worker's shared session has been through; called there.
        ended: called with the row of each worker that has ended.
        keep_helpers: names of processes that may outlive the worker that started them.
        held: returns what a worker has to do beside the requests whose tasks it is given; called
            there.
        balanced: whether workers take connections by share.
    """

    workers: int
    settings: policy.Settings
    recycling: Recycling
    session_counts: Callable[[], SessionCounts]
    ended: Callable[[int], None]
    keep_helpers: frozenset[str] = field(default_factory=frozenset)
    held: Callable[[Collection[Any] | None], Held] = nothing_held
    balanced: bool = True


class Supervisor:
    """Keeps workers serving on sockets that it owns.

    Args:
        config: uvicorn's settings.
        sockets: bound sockets, closed when it stops.
        plan: how many workers to keep, and how.
        launcher: starts a worker process.
        journal: told every event.
        board: where workers write about themselves.
        clock: monotonic time in seconds.
        source: what limits are drawn with.

    Attributes:
        services: what else is done here.
        ending: "draining" or "stopping" once it has been asked to end.
        rolls: how often all workers were to be replaced.
        reloads: how often that was asked for.
        taken_back: how often the first new worker of a reload has not done well.
        exit_status: what the command ends with.
    """

    def __init__(
        self,
        config: Config,
        sockets: list[socket.socket],
        plan: Plan,
        launcher: Launcher,
        journal: Journal,
        *,
        board: Scoreboard,
        clock: Callable[[], float] = time.monotonic,
        source: random.Random | None = None,
    ) -> None:
        self._config = config
        self._sockets = sockets
        self._plan = plan
        self._launcher = launcher
        self._journal = journal
        self._board = board
        self.services: Sequence[Service] = ()
        self._group: GroupWatch | None = None
        if plan.recycling.within_group:
            restarting, root = plan.settings.max_restarting, plan.recycling.group_root
            self._group = GroupWatch(restarting, journal, Path(root))
        self._clock = clock
        self._random = source or random.Random()
        self.set_target(plan.workers)
        self._workers: list[Handle] = []
        self._helpers = Helpers(plan.keep_helpers)
        self._started = 0
        self._restarts = Restarts()
        self._ever_ready = self._awaits_template = False
        self._boot_failure: int | None = None
        self._signals: deque[int] = deque()
        self._wake, self._waker = socket.socketpair()
        self.ending: str | None = None
        self.rolls = self.reloads = self.taken_back = 0
        self._trial: Trial | None = None
        self._why = ""
        self._stop_deadline = math.inf
        settings = plan.settings
        self._upgrade = Upgrade(
            UPGRADE_BOOTS * settings.boot_timeout,
            settings.drain_timeout + settings.flush_timeout + STOP_MARGIN,
            journal.upgrade_failed,
        )
        self._looked_at = clock()
        self.exit_status = 0

    def run(self) -> int:
        """Supervise until asked to stop.

        Returns:
            The exit status: 0, or that of a worker if none of the first generation could start.
        """
        with self._handling_signals(), lossy_output():
            try:
                while self._attempt(self._step):
                    self._attempt(self._wait)
            finally:
                for worker in self._workers:
                    worker.kill_now()
                self._upgrade.kill()
                self._helpers.kill()
                for service in self.services:
                    service.end()
                self._launcher.end()
                self._upgrade.hold(self._signals)
        self._journal.stopped()
        return self.exit_status

    def _attempt(self, step: Callable[[], bool]) -> bool:
        """Do a step; a fault of ours must not end workers that serve."""
        try:
            return step()
        except Exception:
            self._journal.failed()
            time.sleep(LOOK_INTERVAL)
            return True

    def _step(self) -> bool:
        """Do everything there is to do now; say whether anything is left to supervise."""
        now = self._board.totals.turned_at = self._clock()
        self._forgive_suspension(now)
        while self._signals:
            self._handle_signal(self._signals.popleft(), now)
        for worker in list(self._workers):
            self._check(worker, now)
        self._look_at_group(now)
        if self._upgrade.look(now) and not self.ending:
            self._hand_over(now)
        self._look_at_heir(now)
        if self.ending:
            self._kill_after_deadline(now)
        else:
            if self._trial is not None:
                self._look_at(self._trial, now)
            for action in policy.decide(now, self._views(), self._plan.settings, self._demand()):
                self._perform(action, now)
        for service in self.services:
            self._attend(service, now)
        for pid in self._upgrade.heirs():
            self._helpers.leave(pid)
        living = {w.process.pid: w.name for w in self._workers if w.process.pid is not None}
        for left in self._helpers.look(now, living):
            self._journal.left(left)
        busy = bool(self._workers) or self._helpers.busy(now) or self._upgrade.under_way
        return busy or not self.ending

    def _look_at_group(self, now: float) -> None:
        """Make the largest worker due before all together reach the memory limit."""
        if self._group is None:
            return
        if self._upgrade.under_way:
            # Both proxies are counted, and a replacement would only add to that.
            self._board.totals.memory_is_short = False
            return
        found = self._group.look(now, self._workers)
        self._board.totals.memory_is_short = self._group.short
        if found is not None:
            worker, reason = found
            if worker.make_due(Due.MEMORY, reason, now):
                self._journal.due(worker, now - (worker.ready_at or now))

    def _attend(self, service: Service, now: float) -> None:
        """Let something else do its work here; a fault in it is not the workers'."""
        try:
            service.attend(now, [*self._resources(), *self._sockets])
        except Exception:
            self._journal.failed()

    def _views(self) -> list[policy.Worker]:
        return [worker.view() for worker in self._workers]

    def _demand(self) -> policy.Demand:
        return policy.Demand(
            target=self._target,
            start_not_before=self._restarts.not_before,
            ever_ready=self._ever_ready,
            boot_failed=self._boot_failure is not None,
            trial=self._trial is not None,
        )

    def _forgive_suspension(self, now: float) -> None:
        gap = now - self._looked_at
        self._looked_at = now
        if gap > SUSPENDED_GAP:
            for worker in self._workers:
                worker.forgive(gap)

    def _check(self, worker: Handle, now: float) -> None:
        ended = worker.has_ended()
        for message in worker.heard():
            self._handle_message(worker, message, now)
        if ended:
            self._note_end(worker, now)
            return
        worker.kill_if_due(now)
        if worker.observe(now):
            self._journal.due(worker, now - (worker.ready_at or now))
        mute_for = worker.mute_for(now, self._plan.settings.slow_callback)
        if mute_for:
            self._journal.mute(worker, mute_for, stacks=worker.print_stacks())

    def _handle_message(self, worker: Handle, message: Said, now: float) -> None:
        if message is Said.READY and worker.state is WorkerState.BOOTING:
            seconds = worker.enter(WorkerState.SERVING, now)
            self._board.totals.boot.observe(seconds)
            self._journal.ready(worker, seconds)
            self._restarts.ready()
            self._ever_ready = True
            if self.ending:
                worker.stop()
        elif message is Said.LIMIT:
            if worker.state is WorkerState.SERVING and worker.reached_request_limit(now):
                self._journal.due(worker, now - (worker.ready_at or now))
        elif message is Said.DRAINING:
            if worker.state is not WorkerState.DRAINING:
                worker.enter(WorkerState.DRAINING, now)
            self._journal.draining(worker)
        elif message is Said.UNKNOWN and not worker.misunderstood:
            worker.misunderstood = True
            self._journal.misunderstood(worker)

    def _note_end(self, worker: Handle, now: float) -> None:
        self._workers.remove(worker)
        worker.lose_held_records()
        self._journal.grew(worker)
        totals = self._board.totals
        if worker.state is WorkerState.DRAINING and worker.ended_as_asked:
            totals.drain.observe(now - worker.since)
            self._journal.drained(worker, now - worker.since)
        elif worker.state is WorkerState.DRAINING or self.ending:
            if not worker.ended_as_asked:
                totals.count_died(worker.cause)
                self._journal.lost(worker)
        elif worker.ready_at is None:
            totals.boot_failures += 1
            self._boot_failure = worker.process.exitcode
            self._journal.boot_failed(worker, self._restarts.boot_failed(now))
        else:
            totals.count_died(worker.cause)
            self._journal.died(worker, self._restarts.died(now, now - worker.ready_at))
        if self._trial is not None and worker.number >= self._trial.first:
            end = exits.describe(worker.process.exitcode, worker.killed_because)
            self._take_back(f"{worker.name} {end}", now)
        try:
            self._plan.ended(worker.slot)
        finally:
            worker.close()

    def _perform(self, action: policy.Action, now: float) -> None:
        if isinstance(action, policy.Start):
            self._start(now)
        elif isinstance(action, policy.GiveUp):
            self._journal.gave_up()
            failure = self._boot_failure or 0
            self.exit_status = failure if failure > 0 else 1
            self.stop(now)
        else:
            worker = next(w for w in self._workers if w.number == action.number)
            if isinstance(action, policy.Retire):
                worker.enter(WorkerState.RETIRING, now)
                self._journal.retiring(worker)
            elif isinstance(action, policy.Postpone):
                worker.postpone()
                self._journal.postponed(worker)
            elif isinstance(action, policy.Drain):
                worker.successor = self._newest()
                if worker.due is not None:
                    self._board.totals.count_recycled(worker.due)
                worker.enter(WorkerState.DRAINING, now)
                worker.drain()
            else:
                worker.kill(action.reason, now)
                self._journal.killing(worker)

    def _newest(self) -> str | None:
        serving = [worker for worker in self._workers if worker.state is WorkerState.SERVING]
        newest = max(serving, key=lambda worker: worker.number, default=None)
        return newest.name if newest is not None else None

    def _start(self, now: float) -> None:
        if now < self._restarts.not_before:  # another one of this round has failed
            return
        limits = self._plan.recycling.draw(self._random)
        slot = None
        try:
            slot = self._board.claim()
            link = Link.create(self._launcher.context)
            process = self._launch(link, slot, limits)
        except Exception as error:
            if slot is not None:
                self._board.release(slot)
            if isinstance(error, NotYetError):
                self._wait_for_template(now)
                return
            self._board.totals.boot_failures += 1
            self._journal.not_started(error, self._restarts.boot_failed(now))
            self._boot_failure = self._boot_failure or 1
            return
        self._started += 1
        self._awaits_template = False
        method = self._launcher.method
        if method != self._board.totals.start_method:
            self._board.totals.start_method = method
            self._journal.supervising(self._target, method, TEMPLATE_LOST)
        self._board.totals.started += 1
        worker = Handle(
            self._started,
            process,
            link.supervisor,
            limits=limits,
            board=self._board,
            slot=slot,
            now=self._clock(),
        )
        self._workers.append(worker)
        self._journal.started(worker)

    def _wait_for_template(self, now: float) -> None:
        self._restarts.delay(now)
        if not self._awaits_template:
            self._awaits_template = True
            self._journal.loading_again()

    def _launch(self, link: Link, slot: int, limits: Limits) -> WorkerProcess:
        assignment = Assignment(
            number=self._started + 1,
            config=self._config,
            sockets=self._sockets,
            link=link.worker,
            board=self._board,
            slot=slot,
            session_counts=self._plan.session_counts,
            held=self._plan.held,
            request_limit=limits.requests,
            drain_timeout=self._plan.settings.drain_timeout,
            keep_helpers=self._plan.keep_helpers,
            slow_callback=self._plan.settings.slow_callback,
            watch_replies=self._plan.settings.reload_trial > 0,
            log=self._journal.log,
            balanced=self._plan.balanced,
        )
        try:
            return self._launcher.start(assignment, [link.supervisor, *self._resources()])
        except BaseException:
            link.supervisor.close()
            raise
        finally:
            link.worker.close()

    def _resources(self) -> list[Any]:
        links = (worker.link for worker in self._workers)
        return [self._wake, self._waker, self._upgrade, *links, *self.services]

    def _handle_signal(self, number: int, now: float) -> None:
        name = signal.Signals(number).name
        self._upgrade.forward(number)
        if name in ("SIGTERM", "SIGINT", "SIGBREAK"):
            if self.ending != STOPPING:
                self._journal.asked(f"{name}: stopping")
                self.stop(now)
            elif name == "SIGINT":
                self._journal.asked("SIGINT again: stopping at once")
                self._stop_deadline = now
        elif self.ending:
            return
        elif name == "SIGUSR2":
            try:
                self._journal.asked(f"{name}: {self.upgrade()}")
            except UpgradeError as error:
                self._journal.asked(f"{name}: no upgrade: {error}")
        elif name == "SIGHUP":
            self._journal.asked(
                f"{name}: replacing all workers; code and prices are not read again (SIGUSR2)"
            )
            self.reload("started before the SIGHUP", now)
        else:
            step = 1 if name == "SIGTTIN" else -1
            self.set_target(max(1, self._target + step))
            self._journal.asked(f"{name}: {counted(self._target)} from now on")

    @property
    def most_workers(self) -> int:
        """How many there is room for on the scoreboard, as many that drain besides."""
        return self._board.capacity // 2

    def set_target(self, workers: int) -> None:
        """Set how many workers should serve."""
        self._target = self._board.totals.target = workers

    def reload(self, why: str, now: float) -> list[int]:
        """Have all workers replaced, if a new one does well; see `roll`."""
        self.reloads += 1
        seconds = self._plan.settings.reload_trial
        old = [w for w in self._workers if w.state in SERVING]
        if not seconds or not old:
            return self.roll(why, now)
        if self._trial is not None:
            self._drain_from(self._trial.first, now)
        self.rolls += 1
        self._why = why
        self._trial = Trial(seconds, self._started + 1)
        self._journal.trying(self._trial)
        return [worker.number for worker in old]

    def _look_at(self, trial: Trial, now: float) -> None:
        """Roll on if new workers have done well, or take the reload back."""
        why = trial.look(now, [w.seen for w in self._workers if w.state in SERVING])
        if why is not None:
            self._take_back(why, now)
        elif trial.is_over(now):
            self._trial = None
            self._journal.tried(trial)
            self.roll(self._why, now, trial.first)

    def _take_back(self, why: str, now: float) -> None:
        """Keep the workers of before, if there are any."""
        trial, self._trial = self._trial, None
        old = trial is not None and any(
            w.number < trial.first and w.state in SERVING for w in self._workers
        )
        if trial is None or not old:
            return
        self.taken_back += 1
        self._journal.taken_back(why)
        self._drain_from(trial.first, now)

    def _drain_from(self, number: int, now: float) -> None:
        """End the workers from a number on."""
        for worker in self._workers:
            if worker.number >= number and worker.state is not WorkerState.DRAINING:
                booting = worker.state is WorkerState.BOOTING
                worker.enter(WorkerState.DRAINING, now)
                worker.stop() if booting else worker.drain()

    def roll(self, why: str, now: float, before: float = math.inf) -> list[int]:
        """Have all workers replaced that do not drain; return their numbers.

        Args:
            why: the reason, to follow "worker 1".
            now: seconds of the supervisor's clock.
            before: only those that have lower numbers.
        """
        self.rolls += 1
        living = [w for w in self._workers if w.state is not WorkerState.DRAINING]
        chosen = [w for w in living if w.number < before]
        for worker in chosen:
            worker.make_due(Due.ROLL, why, now)
        return [worker.number for worker in chosen]

    @property
    def started(self) -> int:
        """How many workers have been started."""
        return self._started

    @property
    def rolling(self) -> bool:
        """Whether a worker serves that an operator wants replaced."""
        serving = (w for w in self._workers if w.state is not WorkerState.DRAINING)
        return self._trial is not None or any(worker.due is Due.ROLL for worker in serving)

    def recycle(self, number: int, why: str, now: float) -> str | None:
        """Have one worker replaced.

        Args:
            number: the worker's.
            why: as for `roll`.
            now: seconds of the supervisor's clock.

        Returns:
            Its name; None if there is no such worker that could be replaced.
        """
        for worker in self._workers:
            if worker.number == number and worker.state is not WorkerState.DRAINING:
                worker.tells_growth = True
                worker.make_due(Due.ROLL, why, now)
                return worker.name
        return None

    def upgrade(self, program: Path | None = None) -> str:
        """Start a new proxy, which takes over when all its workers serve.

        Args:
            program: another `litellm-resilient` or virtual environment; None for the same command.

        Returns:
            What was started.

        Raises:
            UpgradeError: nothing was.
        """
        sockets = self._sockets if self._ever_ready and not self.ending else ()
        started = self._upgrade.start(self._clock(), sockets, program)
        if self._upgrade.pid is not None:
            self._helpers.leave(self._upgrade.pid)
        return f"started {started}, which takes over when all its workers serve"

    def _hand_over(self, now: float) -> None:
        """Give way to a new proxy that is ready."""
        pid, took = self._upgrade.pid, now - self._upgrade.began
        self._journal.asked(f"Upgrade: process {pid} is ready after {took:.2f} s and takes over")
        for service in self.services:
            try:
                service.end()
            except Exception:  # noqa: PERF203 - each must end
                self._journal.failed()
        self.services = ()
        self._upgrade.hand_over()
        self.drain(now)

    def _look_at_heir(self, now: float) -> None:
        """Stop too if the proxy has failed that has taken over: nobody serves until this one ends.

        Whoever knows this process starts it again only then.
        """
        if self.ending != DRAINING:
            return
        failure = self._upgrade.heir_failure()
        if failure is not None:
            self._journal.heir_failed(failure)
            self.stop(now, HEIR_GRACE)

    def drain(self, now: float) -> float:
        """Accept nothing new, and end when everything is answered.

        Returns:
            How many seconds that may take.
        """
        self.ending = DRAINING
        left = self._end_within(self._plan.settings.drain_timeout, now)
        for worker in self._workers:
            if worker.state is WorkerState.BOOTING:
                worker.stop()
            else:
                worker.drain()
        return left

    def stop(self, now: float, default_grace: float | None = None) -> float:
        """End as uvicorn does at a SIGTERM, also if it drains already.

        Args:
            now: seconds of the supervisor's clock.
            default_grace: seconds in which requests are answered, if uvicorn is not told how many;
                None for the drain timeout.

        Returns:
            How many seconds that may take.
        """
        if self.ending == STOPPING:
            return self._stop_deadline - now
        self.ending = STOPPING
        default = self._plan.settings.drain_timeout if default_grace is None else default_grace
        told = self._config.timeout_graceful_shutdown
        left = self._end_within(default if told is None else told, now)
        for worker in self._workers:
            worker.stop()
        return left

    def _end_within(self, seconds: float, now: float) -> float:
        latest = now + seconds + self._plan.settings.flush_timeout + STOP_MARGIN
        self._stop_deadline = min(latest, self._stop_deadline)
        self._upgrade.abandon(now)
        self._board.totals.ending = 1
        # Whoever connects now is refused, instead of waiting for nobody until the end.
        for listener in self._sockets:
            listener.close()
        return self._stop_deadline - now

    def _kill_after_deadline(self, now: float) -> None:
        if now >= self._stop_deadline:
            for worker in self._workers:
                worker.kill_now()
            self._upgrade.kill()

    def _wait(self) -> bool:
        """Sleep until a worker says something or ends, a signal comes, or it is time to look."""
        waiting: list[Any] = [self._wake, *self._upgrade.waitables]
        for worker in self._workers:
            waiting += worker.waitables
        for service in self.services:
            waiting += service.waitables
        pause = self._restarts.not_before - self._clock()
        timeout = min(LOOK_INTERVAL, pause if pause > 0 else math.inf)
        multiprocessing.connection.wait(waiting, timeout)
        with contextlib.suppress(BlockingIOError):
            self._wake.recv(4096)
        return True

    @contextlib.contextmanager
    def _handling_signals(self) -> Iterator[None]:
        """Put signals in a queue and wake the loop; nothing else happens in a handler."""
        names = ("SIGTERM", "SIGINT", "SIGBREAK", "SIGHUP", "SIGTTIN", "SIGTTOU", "SIGUSR2")
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        previous = {
            number: signal.signal(number, lambda got, _: self._signals.append(got))
            for number in numbers
        }
        wakeup = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._wake.close()
            self._waker.close()
