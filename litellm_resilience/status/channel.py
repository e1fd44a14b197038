"""The Unix socket through which a supervisor tells its state and takes commands.

A client writes one line, a JSON list of words, and gets one JSON object and an end of file. Who may
connect is its owner; who may command is its owner, whatever has become of the file's mode. One that
says nothing gets the state, as from versions of this package that never read.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import struct
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
MOST_CLIENTS = 64
"""Clients that are heard at once, so that any number of them holds up no worker."""
LARGEST_REQUEST = 16384
"""Bytes of a line with a command."""
REQUEST_TIMEOUT = 1.0
"""Seconds in which a client must have said everything."""
STATUS = "status"
"""The word that asks for the state."""
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


class _Client:
    """A client that has connected, until it is answered.

    Args:
        connection: to it.
        now: seconds of the supervisor's clock.
    """

    def __init__(self, connection: socket.socket, now: float) -> None:
        connection.setblocking(False)
        self.connection = connection
        self._said = b""
        self._deadline = now + REQUEST_TIMEOUT

    def heard(self, now: float) -> bool:
        """Listen without waiting; say whether it has said all that it will."""
        try:
            part = self.connection.recv(LARGEST_REQUEST)
        except BlockingIOError:
            part = None
        except OSError:
            part = b""
        self._said += part or b""
        over = part == b"" or now >= self._deadline or len(self._said) > LARGEST_REQUEST
        return over or b"\n" in self._said

    def words(self) -> list[str]:
        """Return what it has asked for.

        Raises:
            ValueError: that is no request.
        """
        if not self._said:
            return [STATUS]
        line, end, _ = self._said.partition(b"\n")
        if not end or len(line) > LARGEST_REQUEST:
            raise ValueError(f"a request is one line of at most {LARGEST_REQUEST} bytes")
        try:
            words = json.loads(line)
        except (ValueError, RecursionError):
            words = None
        all_words = isinstance(words, list) and all(isinstance(word, str) for word in words)
        if not words or not all_words:
            raise ValueError("a request is a list of words")
        return list(words)

    def check_owner(self) -> None:
        """Check that it is the user that this process runs as, where the system tells.

        Raises:
            ValueError: it is not.
        """
        if hasattr(socket, "SO_PEERCRED"):
            size = struct.calcsize("3i")
            told = self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
            if struct.unpack("3i", told)[1] != os.geteuid():
                raise ValueError("only the user that the supervisor runs as may command it")


class SupervisorSocket:
    """A supervisor's end.

    Args:
        path: where to listen.
        describe: returns the state, given the supervisor's time.
        perform: does a command, given its words and the supervisor's time; returns the answer.

    Raises:
        UnavailableError: if another supervisor listens there, or nobody can.
    """

    def __init__(
        self,
        path: Path,
        describe: Callable[[float], dict[str, Any]],
        perform: Callable[[Sequence[str], float], dict[str, Any]],
    ) -> None:
        self._path = path
        self._describe = describe
        self._perform = perform
        self._paused = False
        self._clients: list[_Client] = []
        self._lock = _lock(path)
        try:
            self._socket = _listen(path)
        except UnavailableError:
            os.close(self._lock)
            raise

    @property
    def waitables(self) -> list[socket.socket]:
        """What is readable when a client has connected or said something."""
        clients = [client.connection for client in self._clients]
        full = self._paused or len(clients) >= MOST_CLIENTS
        return clients if full else [self._socket, *clients]

    def attend(self, now: float, inherited: Sequence[Any] = ()) -> None:
        """Answer the clients that have said what they want; who does not read loses its answer."""
        del inherited
        self._accept(now)
        for client in list(self._clients):
            if client.heard(now):
                self._clients.remove(client)
                with client.connection, contextlib.suppress(OSError):
                    self._answer(client, now)

    def _accept(self, now: float) -> None:
        self._paused = False
        while len(self._clients) < MOST_CLIENTS:
            try:
                connection, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError:
                # Out of file descriptors, most likely: the client waits until the next look.
                self._paused = True
                return
            self._clients.append(_Client(connection, now))

    def _answer(self, client: _Client, now: float) -> None:
        answer = json.dumps(self._done(client, now)).encode()
        client.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST_OUTBOX)
        client.connection.send(answer)

    def _done(self, client: _Client, now: float) -> dict[str, Any]:
        try:
            words = client.words()
            if words == [STATUS]:
                return self._describe(now)
            client.check_owner()
        except ValueError as error:
            return {"refused": str(error)}
        return self._perform(words, now)

    def close(self) -> None:
        """Close the socket, as a worker does that has inherited it."""
        self._socket.close()
        for client in self._clients:
            client.connection.close()
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
            f"several supervisors run here: {paths}; choose with --port or --status_socket"
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


def chosen(path: Path | None, port: int | None) -> Path:
    """Return the path of the supervisor that is meant.

    Args:
        path: its socket, if that was given.
        port: the one that its proxy serves, if that was given.

    Raises:
        UnavailableError: there is none, or more than one, or it serves another port.
    """
    if path is None:
        return find() if port is None else _by_port(port)
    if port is not None:
        supervisor = ask(path).get("supervisor")
        if not isinstance(supervisor, dict) or supervisor.get("port") != port:
            raise UnavailableError(f"the supervisor at {path} does not serve port {port}")
    return path


def _by_port(port: int) -> Path:
    folder = directory()
    if folder.is_dir():
        _check_private(folder)
    return folder / f"{port}{SOCKET_SUFFIX}"


def ask(path: Path, words: Sequence[str] = (STATUS,)) -> dict[str, Any]:
    """Return the state of the supervisor that listens there, or its answer to a command.

    Args:
        path: its socket.
        words: the command.

    Raises:
        UnavailableError: if none does, or it does not answer whole and in time.
    """
    request = json.dumps(list(words)).encode() + b"\n"
    try:
        answer = json.loads(_exchange(path, request, time.monotonic() + ANSWER_TIMEOUT))
    except FileNotFoundError as error:
        raise UnavailableError(f"no supervisor runs at {path}") from error
    except ConnectionRefusedError as error:
        raise UnavailableError(f"no supervisor runs at {path} any more") from error
    except OSError as error:
        raise UnavailableError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UnavailableError(f"{path}: what answers there is no supervisor") from error
    if not isinstance(answer, dict):
        raise UnavailableError(f"{path}: what answers there is no supervisor")
    return answer


def _exchange(path: Path, request: bytes, deadline: float) -> bytes:
    """Write a request; return everything that is written there until the end of file."""
    answer = bytearray()
    with _connected(path, deadline) as client:
        # An earlier version answers and closes without reading.
        with contextlib.suppress(ConnectionError):
            client.sendall(request)
        while True:
            client.settimeout(_left(deadline))
            try:
                part = client.recv(65536)
            except ConnectionResetError:
                part = b""
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
