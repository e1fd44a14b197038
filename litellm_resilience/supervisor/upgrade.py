"""The old proxy's side of an upgrade in place: starts the new one, and gives way when it is ready.

The process that was there first stays, because its process id is what a container or a service
manager knows: when its workers have drained, a small program takes its place, see `waiting`. A new
proxy that gives way in its turn ends; its successor then becomes the first one's child.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from litellm_resilience.supervisor import exit_hooks, exits, helpers, takeover, waiting
from litellm_resilience.supervisor.takeover import GO, READY, VARIABLE, UpgradeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

EXIT_TIMEOUT = 5.0
"""Seconds that threads and exit hooks may take before the small program takes this one's place."""


@dataclass
class _Line:
    """The line of proxies that succeed each other, as the one that was there first knows it.

    Attributes:
        own: the end that belongs to it.
        theirs: the end that its successors have.
        heirs: process ids of the successors that have taken over.
    """

    own: socket.socket
    theirs: socket.socket
    heirs: list[int] = field(default_factory=list)


_line: _Line | None = None


class Upgrade:
    """At most one upgrade at a time.

    Args:
        ready_timeout: seconds in which a new proxy must be ready.
        stop_timeout: seconds in which one that has failed may drain, or its workers without it.
        failed: told why, if an upgrade fails.
    """

    def __init__(
        self, ready_timeout: float, stop_timeout: float, failed: Callable[[str], None]
    ) -> None:
        self._ready_timeout = ready_timeout
        self._stop_timeout = stop_timeout
        self._failed = failed
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._hung_up = False
        self._ready_by = self._kill_at = math.inf
        self.began = 0.0
        self.handed_over = False

    @property
    def pid(self) -> int | None:
        """Of the new proxy, if there is one."""
        return None if self._process is None else self._process.pid

    @property
    def waitables(self) -> list[Any]:
        """What becomes readable when the new proxy says something or ends."""
        first = [_line.own] if self._is_first and _line is not None and _line.heirs else []
        return first if self._channel is None or self._hung_up else [*first, self._channel]

    @property
    def _is_first(self) -> bool:
        return takeover.given() is None

    def start(self, now: float, sockets: Sequence[socket.socket], program: Path | None) -> str:
        """Start the new proxy.

        Args:
            now: seconds of the supervisor's clock.
            sockets: what it should listen on; none before and after this proxy serves.
            program: another `litellm-resilient` or virtual environment; None for the same command.

        Returns:
            What was started.

        Raises:
            UpgradeError: nothing was.
        """
        origin, given = takeover.origin(), takeover.given()
        if sys.platform != "linux":
            raise UpgradeError("it needs Linux")
        if not sockets:
            raise UpgradeError("this proxy does not serve")
        if origin is None:
            raise UpgradeError("this process was not started as litellm-resilient")
        if given is not None and not given.taken:
            raise UpgradeError("this proxy has not taken its predecessor's place yet")
        self._forget_if_ended(now)
        if self._process is not None:
            raise UpgradeError(f"there is one already: process {self._process.pid}")
        first = _the_line().theirs if given is None else given.first
        own, theirs = socket.socketpair()
        passed = [*(each.fileno() for each in sockets), theirs.fileno(), first.fileno()]
        names = {
            "sockets": passed[:-2],
            "old": theirs.fileno(),
            "first": first.fileno(),
            "pid": os.getpid(),
        }
        with theirs:
            try:
                command = origin.command(program)
                # In a session of its own: a terminal's signals come to the first process, which
                # sends them on.
                self._process = subprocess.Popen(  # noqa: S603 - the operator's own command
                    command,
                    env={**origin.environment, VARIABLE: json.dumps(names)},
                    cwd=origin.directory,
                    pass_fds=passed,
                    start_new_session=True,
                )
            except OSError as error:
                own.close()
                raise UpgradeError(str(error)) from error
        self._channel, self._hung_up = own, False
        self.began, self._ready_by, self._kill_at = now, now + self._ready_timeout, math.inf
        return f"{command[0]} (process {self._process.pid})"

    def look(self, now: float) -> bool:
        """Say whether the new proxy has become ready; end one that is late, forget one that ended.

        Args:
            now: seconds of the supervisor's clock.
        """
        process = self._process
        if process is None or self.handed_over:
            return False
        ready = self._heard() == READY
        if self._forget_if_ended(now):
            return False
        if now >= self._kill_at:
            os.kill(process.pid, signal.SIGKILL)
        elif self._kill_at < math.inf:
            return False
        elif now >= self._ready_by:
            self._failed(
                f"process {process.pid} was not ready within {self._ready_timeout:g} s, it is ended"
            )
            self.abandon(now)
        else:
            return ready
        return False

    def _heard(self) -> bytes:
        if self._channel is None or self._hung_up:
            return b""
        try:
            said = self._channel.recv(1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return b""
        except OSError:
            said = b""
        self._hung_up = not said
        return said

    def _forget_if_ended(self, now: float) -> bool:
        """Forget a new proxy that has ended, once its workers have: they answer what they have.

        It is not reaped before: until then its number stands for its session.

        Returns:
            Whether it has ended.
        """
        process = self._process
        if process is None or self.handed_over or (status := _status(process.pid)) is None:
            return False
        others = helpers.group(process.pid)
        if self._kill_at == math.inf:
            self._kill_at = now + self._stop_timeout
            self._failed(f"process {process.pid} {exits.describe(status)}")
            for other in others:
                helpers.signal_process(other, signal.SIGTERM)
        if others and now < self._kill_at:
            return True
        _kill_group(process.pid)
        process.wait()
        if self._channel is not None:
            self._channel.close()
        self._process = self._channel = None
        return True

    def abandon(self, now: float) -> None:
        """Have a new proxy end that is not to take over: it answers what it has accepted."""
        if self._process is not None and not self.handed_over and self._kill_at == math.inf:
            self._kill_at = now + self._stop_timeout
            os.kill(self._process.pid, signal.SIGTERM)

    @property
    def under_way(self) -> bool:
        """Whether there is a new proxy that has not taken over, or what is left of one."""
        return self._process is not None and not self.handed_over

    def kill(self) -> None:
        """Kill a new proxy that has not taken over, with its workers."""
        if self._process is not None and not self.handed_over:
            _kill_group(self._process.pid)

    def hand_over(self) -> None:
        """Tell the new proxy that the place is free; nothing goes back from here."""
        if self._process is None or self._channel is None:
            return
        self.handed_over = True
        takeover.give_way()
        pid = self._process.pid
        # Or it would be reaped with the object, and its status is for the first process.
        self._process.returncode = 0
        given = takeover.given()
        with contextlib.suppress(OSError):
            if given is None:
                _the_line().heirs.append(pid)
            else:
                given.first.send(f"{pid}\n".encode())
        with contextlib.suppress(OSError):
            self._channel.send(GO)
        self._channel.close()
        self._channel = None

    def heir_failure(self) -> str | None:
        """Return how the process has failed that has taken over, if it has.

        One that has given way in its turn ends with 0, and so does one that was asked to stop.
        """
        if self._process is None or not self.handed_over:
            return None
        pid = [self._process.pid, *self.heirs()][-1]
        try:
            status = _status(pid)
        except ChildProcessError:
            # It was started by another one that has taken over, and still is that one's child.
            return None if waiting.exists(pid) else f"process {pid} {exits.describe(None)}"
        return f"process {pid} {exits.describe(status)}" if status else None

    def heirs(self) -> list[int]:
        """Return the processes that have taken over, the last one serves."""
        if not self._is_first or _line is None:
            return []
        if _line.heirs:
            _line.heirs += waiting.told(_line.own)
        return _line.heirs

    def forward(self, number: int) -> None:
        """Send a signal on to those who have taken over."""
        waiting.forward(number, self.heirs())

    def hold(self, come: Iterable[int]) -> None:
        """Leave the signals that come from now on to the small program.

        Args:
            come: those that have come and were not looked at.
        """
        if self.heirs():
            signal.pthread_sigmask(signal.SIG_BLOCK, waiting.FORWARDED)
            for number in come:
                self.forward(number)

    def close(self) -> None:
        """Close what belongs to the supervisor, in a process that was forked from it."""
        line = () if _line is None else (_line.own, _line.theirs)
        for each in (self._channel, *line):
            if each is not None:
                each.close()


def _status(pid: int) -> int | None:
    """Return how a child ended, None while it runs; it is not reaped.

    Raises:
        ChildProcessError: it is no child of this process.
    """
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def _kill_group(leader: int) -> None:
    """Kill a child that has not been reaped, and what is in its process group."""
    with contextlib.suppress(OSError):
        os.killpg(leader, signal.SIGKILL)


def _the_line() -> _Line:
    global _line  # noqa: PLW0603
    if _line is None:
        _line = _Line(*socket.socketpair())
    return _line


def stand_by() -> None:
    """Wait for the successors in a small program in this one's place, if there are any.

    Called at the very end; does not return then.
    """
    origin, line = takeover.origin(), _line
    if origin is None or line is None or not line.heirs:
        return

    def replace() -> None:
        line.own.set_inheritable(True)
        numbers = [str(number) for number in (line.own.fileno(), *line.heirs)]
        command = [sys.executable, "-I", "-S", waiting.__file__, *numbers]
        try:
            os.execve(sys.executable, command, origin.environment)  # noqa: S606
        except OSError:
            os._exit(waiting.wait(line.own, line.heirs))

    exit_hooks.run(EXIT_TIMEOUT, replace)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
        sys.stderr.flush()
    replace()
