"""The Unix socket through which a supervisor tells its state.

It only ever writes: whoever may connect, which is its owner, gets the state and an end of file.
Nothing is read, so there is nothing that a client could say wrong or make happen.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

if os.name == "posix":
    import fcntl

SOCKET_SUFFIX = ".sock"
LARGEST_OUTBOX = 1 << 20
"""Bytes of a send buffer that hold the state of any number of workers."""
LISTEN_BACKLOG = 128
"""Clients that may wait for an answer."""
MOST_ANSWERS = 64
"""Clients that are answered in one go, so that any number of them holds up no worker."""
ANSWER_TIMEOUT = 5.0
"""Seconds a client waits for the whole answer."""
LARGEST_ANSWER = 16 << 20
"""Bytes of an answer that a client takes."""
RETRY_PAUSE = 0.05
"""Seconds after which a client tries again to connect when too many others wait."""


class UnavailableError(Exception):
    """The state cannot be told or asked for, and why."""


def directory() -> Path:
    """Return where supervisors of this user put their sockets unless told otherwise.

    Raises:
        UnavailableError: if there is no place for temporary files.
    """
    try:
        place = tempfile.gettempdir()
    except FileNotFoundError as error:
        raise UnavailableError("no directory for temporary files can be written to") from error
    return Path(place) / f"litellm-resilience-{os.geteuid()}"


def default_path(name: str) -> Path:
    """Return the path for a supervisor, in a directory that only its user can enter.

    Args:
        name: what tells it from others of this user, such as its port.

    Raises:
        UnavailableError: if that directory is somebody else's or open to others.
    """
    folder = directory()
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    _check_private(folder)
    return folder / f"{name}{SOCKET_SUFFIX}"


def _check_private(folder: Path) -> None:
    found = folder.lstat()
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if not ours or found.st_mode & 0o077:
        raise UnavailableError(f"{folder} is not a directory that only this user can enter")


class StatusSocket:
    """A supervisor's end.

    Args:
        path: where to listen.
        describe: returns the state, given the supervisor's time.

    Raises:
        UnavailableError: if another supervisor listens there, or nobody can.
    """

    def __init__(self, path: Path, describe: Callable[[float], dict[str, Any]]) -> None:
        self._path = path
        self._describe = describe
        self._paused = False
        self._lock = _lock(path)
        try:
            self._socket = _listen(path)
        except UnavailableError:
            os.close(self._lock)
            raise

    @property
    def waitables(self) -> list[socket.socket]:
        """The listening socket: readable when a client has connected."""
        return [] if self._paused else [self._socket]

    def attend(self, now: float, inherited: Sequence[Any] = ()) -> None:
        """Answer the clients that have connected; one that does not read loses its answer."""
        del inherited
        self._paused = False
        answer: bytes | None = None
        for _ in range(MOST_ANSWERS):
            try:
                client, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError:
                # Out of file descriptors, most likely: the client waits until the next look.
                self._paused = True
                return
            with client, contextlib.suppress(OSError):
                if answer is None:
                    answer = json.dumps(self._describe(now)).encode()
                client.setblocking(False)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST_OUTBOX)
                client.send(answer)

    def close(self) -> None:
        """Close the socket, as a worker does that has inherited it."""
        self._socket.close()
        os.close(self._lock)

    def end(self) -> None:
        """Stop listening. The lock file stays: whoever waits for it must find the same one."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        self.close()


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _lock(path: Path) -> int:
    """Hold a path for as long as this process lives, however it ends, with a file beside it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(_lock_path(path), flags, 0o600)
    except OSError as error:
        raise UnavailableError(f"{_lock_path(path)}: {error.strerror}") from error
    if os.fstat(descriptor).st_uid != os.geteuid():
        os.close(descriptor)
        raise UnavailableError(f"{_lock_path(path)} is somebody else's")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise UnavailableError(f"another supervisor uses {path}") from error
    return descriptor


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        _remove_stale(path)
        listener.bind(str(path))
        listener.listen(LISTEN_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise UnavailableError(f"{path}: {error.strerror or error}") from error
    finally:
        os.umask(mask)
    return listener


def _remove_stale(path: Path) -> None:
    """Remove the socket of a supervisor that was killed, and nothing else."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise OSError(errno.EEXIST, "exists and is not a socket of ours")
    path.unlink()


def find() -> Path:
    """Return the path of the only supervisor of this user that runs here.

    Raises:
        UnavailableError: if there is none, or more than one.
    """
    running = list(_running())
    if not running:
        raise UnavailableError("no supervisor of this user runs here")
    if len(running) > 1:
        paths = ", ".join(str(path) for path in running)
        raise UnavailableError(
            f"several supervisors run here: {paths}; choose with --status_socket"
        )
    return running[0]


def _running() -> Iterator[Path]:
    folder = directory()
    if not folder.is_dir():
        return
    _check_private(folder)
    for path in sorted(folder.glob(f"*{SOCKET_SUFFIX}")):
        with contextlib.suppress(UnavailableError):
            ask(path)
            yield path


def ask(path: Path) -> dict[str, Any]:
    """Return the state of the supervisor that listens there.

    Raises:
        UnavailableError: if none does, or it does not answer whole and in time.
    """
    try:
        state = json.loads(_answer(path, time.monotonic() + ANSWER_TIMEOUT))
    except FileNotFoundError as error:
        raise UnavailableError(f"no supervisor runs at {path}") from error
    except ConnectionRefusedError as error:
        raise UnavailableError(f"no supervisor runs at {path} any more") from error
    except OSError as error:
        raise UnavailableError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UnavailableError(f"{path}: what answers there is no supervisor") from error
    if not isinstance(state, dict):
        raise UnavailableError(f"{path}: what answers there is no supervisor")
    return state


def _answer(path: Path, deadline: float) -> bytes:
    """Return everything that is written there until the end of file."""
    answer = bytearray()
    with _connected(path, deadline) as client:
        while True:
            client.settimeout(_left(deadline))
            part = client.recv(65536)
            if not part:
                return bytes(answer)
            answer += part
            if len(answer) > LARGEST_ANSWER:
                raise ValueError(f"more than {LARGEST_ANSWER} bytes")


def _connected(path: Path, deadline: float) -> socket.socket:
    while True:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(_left(deadline))
        try:
            client.connect(str(path))
        except BlockingIOError:
            client.close()
            time.sleep(RETRY_PAUSE)
        except OSError:
            client.close()
            raise
        else:
            return client


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError(f"no whole answer within {ANSWER_TIMEOUT:g} s")
    return left
