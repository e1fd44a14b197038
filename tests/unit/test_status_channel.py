"""The status socket: private, never stolen, never in the way."""

from __future__ import annotations

import os
import resource
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from litellm_resilience.status import channel
from litellm_resilience.status.channel import StatusSocket, UnavailableError, ask, find

pytestmark = pytest.mark.skipif(os.name != "posix", reason="no Unix sockets here")


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for temporary files, short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="lr") as path:
        monkeypatch.setattr(tempfile, "tempdir", path)
        yield Path(path)


class Answering:
    """A supervisor's loop, reduced to its status socket."""

    def __init__(self, path: Path, state: Any = None) -> None:
        self.socket = StatusSocket(path, lambda now: {"now": now} if state is None else state)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> StatusSocket:
        self._thread.start()
        return self.socket

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.socket.end()

    def _run(self) -> None:
        while not self._done.wait(0.01):
            self.socket.attend(7.0)


def test_it_tells_the_state(folder: Path) -> None:
    path = folder / "s"
    with Answering(path):
        assert ask(path) == {"now": 7.0}
        assert ask(path) == {"now": 7.0}


def test_a_large_state_is_told_whole(folder: Path) -> None:
    state = {"workers": ["x" * 400] * 256}
    with Answering(folder / "s", state):
        assert ask(folder / "s") == state


def test_it_is_its_owners_alone(folder: Path) -> None:
    path = channel.default_path("4000")
    with Answering(path):
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700


def test_nothing_is_there_afterwards_that_would_answer(folder: Path) -> None:
    path = folder / "s"
    with Answering(path):
        pass
    assert not path.exists()
    with pytest.raises(UnavailableError, match="no supervisor runs at"):
        ask(path)


def test_a_second_supervisor_does_not_steal_it(folder: Path) -> None:
    path = folder / "s"
    with Answering(path):
        with pytest.raises(UnavailableError, match="another supervisor uses"):
            StatusSocket(path, lambda _: {})
        assert ask(path) == {"now": 7.0}


def test_what_a_killed_supervisor_left_is_taken_over(folder: Path) -> None:
    """Its socket is still there, but the lock on it went with the process."""
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(UnavailableError, match="any more"):
        ask(path)
    with Answering(path):
        assert ask(path) == {"now": 7.0}


def test_a_file_that_is_no_socket_is_left_alone(folder: Path) -> None:
    path = folder / "s"
    path.write_text("precious")
    with pytest.raises(UnavailableError, match="not a socket of ours"):
        StatusSocket(path, lambda _: {})
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["s", "s.lock"])
def test_no_symlink_is_followed(folder: Path, name: str) -> None:
    target = folder / "target"
    target.write_text("precious")
    (folder / name).symlink_to(target)
    with pytest.raises(UnavailableError):
        StatusSocket(folder / "s", lambda _: {})
    assert target.read_text() == "precious"


def test_somebody_elses_directory_is_not_used(folder: Path) -> None:
    """Who prepared it could replace what is in it."""
    channel.directory().mkdir(mode=0o777)
    channel.directory().chmod(0o777)
    with pytest.raises(UnavailableError, match="only this user"):
        channel.default_path("4000")
    with pytest.raises(UnavailableError, match="only this user"):
        find()


def test_a_directory_that_is_a_symlink_is_not_used(folder: Path) -> None:
    (folder / "elsewhere").mkdir(mode=0o700)
    channel.directory().symlink_to(folder / "elsewhere")
    with pytest.raises(UnavailableError, match="only this user"):
        channel.default_path("4000")


def test_a_directory_that_does_not_exist_is_said(folder: Path) -> None:
    with pytest.raises(UnavailableError, match="No such file"):
        StatusSocket(folder / "no" / "s", lambda _: {})


def test_a_client_that_does_not_read_is_not_waited_for(folder: Path) -> None:
    path = folder / "s"
    status = StatusSocket(path, lambda _: {"much": "x" * 10_000_000})
    with socket.socket(socket.AF_UNIX) as lazy:
        lazy.connect(str(path))
        status.attend(0.0)
    with socket.socket(socket.AF_UNIX) as gone:
        gone.connect(str(path))
    status.attend(0.0)
    status.end()


def test_no_descriptor_left_is_no_reason_to_spin(folder: Path) -> None:
    """The supervisor would be woken at once, again and again, by a client it cannot accept."""
    status = StatusSocket(folder / "s", lambda _: {"fine": True})
    assert status.waitables
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / "s"))
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
        try:
            status.attend(0.0)
            assert status.waitables == []
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        status.attend(1.0)
        assert status.waitables
        assert client.recv(100) == b'{"fine": true}'
    status.end()


def test_what_answers_otherwise_is_no_supervisor(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(folder / "s"))
        other.listen()
        thread = threading.Thread(target=lambda: other.accept()[0].sendall(b"HTTP/1.1 400"))
        thread.start()
        with pytest.raises(UnavailableError, match="is no supervisor"):
            ask(folder / "s")
        thread.join()


def test_the_only_one_that_runs_is_found() -> None:
    with pytest.raises(UnavailableError, match="no supervisor of this user"):
        find()
    path = channel.default_path("4000")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(channel.default_path("4001")))
    with Answering(path):
        assert find() == path
        with (
            Answering(channel.default_path("4002")),
            pytest.raises(UnavailableError, match=r"4000\.sock, .*4002\.sock; choose"),
        ):
            find()


def test_a_worker_that_closes_its_copy_leaves_the_supervisors(folder: Path) -> None:
    path = folder / "s"
    with Answering(path) as status:
        child = os.fork()
        if child == 0:
            status.close()
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(UnavailableError, match="another supervisor"):
            StatusSocket(path, lambda _: {})
        assert ask(path) == {"now": 7.0}
