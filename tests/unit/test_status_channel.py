"""The supervisor's socket: private, never stolen, never in the way."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from litellm_resilience.status import channel
from litellm_resilience.status.channel import (
    SupervisorSocket,
    UnavailableError,
    ask,
    chosen,
    find,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="no Unix sockets here")

NOBODY = 65534
AS_ROOT = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="only root can be another user"
)


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for temporary files, short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="lr") as path:
        monkeypatch.setattr(tempfile, "tempdir", path)
        yield Path(path)


def listening(path: Path, state: Any = None) -> SupervisorSocket:
    """Return a socket whose supervisor repeats each command."""
    return SupervisorSocket(
        path,
        lambda now: {"now": now} if state is None else state,
        lambda words, now: {"done": " ".join(words), "now": now},
    )


class Answering:
    """A supervisor's loop, reduced to its socket."""

    def __init__(self, path: Path, state: Any = None) -> None:
        self.socket = listening(path, state)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> SupervisorSocket:
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
            listening(path)
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
        listening(path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["s", "s.lock"])
@pytest.mark.parametrize("target_is", ["a file", "missing", "a socket", "a directory"])
def test_no_symlink_is_followed(folder: Path, name: str, target_is: str) -> None:
    target = folder / "target"
    with contextlib.ExitStack() as other:
        if target_is == "a file":
            target.write_text("precious")
        elif target_is == "a socket":
            other.enter_context(socket.socket(socket.AF_UNIX)).bind(str(target))
        elif target_is == "a directory":
            target.mkdir(mode=0o755)
        before = target.lstat() if target.exists() else None
        (folder / name).symlink_to(target)
        with pytest.raises(UnavailableError):
            listening(folder / "s")
        assert (target.lstat() if target.exists() else None) == before
        assert (folder / name).is_symlink()


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o702, 0o750, 0o701])
def test_a_directory_that_is_open_to_others_is_not_used(folder: Path, mode: int) -> None:
    """Who prepared it could replace what is in it."""
    channel.directory().mkdir()
    channel.directory().chmod(mode)
    with pytest.raises(UnavailableError, match="only this user"):
        channel.default_path("4000")
    with pytest.raises(UnavailableError, match="only this user"):
        find()
    assert channel.directory().stat().st_mode & 0o777 == mode


def test_what_is_in_place_of_the_directory_is_left_alone(folder: Path) -> None:
    channel.directory().write_text("precious")
    with pytest.raises(UnavailableError, match="only this user"):
        channel.default_path("4000")
    assert channel.directory().read_text() == "precious"


@AS_ROOT
def test_somebody_elses_directory_is_not_used(folder: Path) -> None:
    channel.directory().mkdir(mode=0o700)
    os.chown(channel.directory(), NOBODY, NOBODY)
    with pytest.raises(UnavailableError, match="only this user"):
        channel.default_path("4000")
    with pytest.raises(UnavailableError, match="only this user"):
        find()


@AS_ROOT
@pytest.mark.parametrize("name", ["s", "s.lock"])
def test_somebody_elses_socket_or_lock_is_left_alone(folder: Path, name: str) -> None:
    """Who owns the lock file could hold it for ever."""
    with socket.socket(socket.AF_UNIX) as theirs:
        if name == "s":
            theirs.bind(str(folder / name))
        else:
            (folder / name).touch()
        os.chown(folder / name, NOBODY, NOBODY)
        with pytest.raises(UnavailableError, match=r"not a socket of ours|somebody else's"):
            listening(folder / "s")
        assert (folder / name).stat().st_uid == NOBODY


@AS_ROOT
@pytest.mark.parametrize("umask", [0o022, 0o000])
def test_another_user_cannot_connect(folder: Path, umask: int) -> None:
    """In a directory that everybody may enter, where only the socket's own mode protects it."""
    folder.chmod(0o755)
    before = os.umask(umask)
    try:
        with Answering(folder / "s"):
            assert asked_by(NOBODY, folder / "s") == "Permission denied"
            assert asked_by(os.geteuid(), folder / "s") == "answered"
            assert (folder / "s.lock").stat().st_mode & 0o777 == 0o600
        assert os.umask(umask) == umask
    finally:
        os.umask(before)


@AS_ROOT
def test_only_the_owner_may_command(folder: Path) -> None:
    """Whatever has become of the modes; the state is told to whoever can connect."""
    folder.chmod(0o755)
    with Answering(folder / "s"):
        (folder / "s").chmod(0o777)
        assert asked_by(NOBODY, folder / "s") == "answered"
        told = asked_by(NOBODY, folder / "s", ["roll"])
        assert told == "only the user that the supervisor runs as may command it"
        assert asked_by(os.geteuid(), folder / "s", ["roll"]) == "answered"


@AS_ROOT
def test_another_user_cannot_enter_the_directory(folder: Path) -> None:
    folder.chmod(0o755)
    path = channel.default_path("4000")
    with Answering(path):
        path.chmod(0o777)
        assert asked_by(NOBODY, path) == "Permission denied"


def asked_by(user: int, path: Path, words: Sequence[str] = ("status",)) -> str:
    """Return what a process of this user is told."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            refused = ask(path, words).get("refused", "answered")
            os.write(writing, refused.encode())
        except UnavailableError as error:
            os.write(writing, str(error).rpartition(": ")[2].encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        return told.read().decode()


def test_a_directory_that_is_a_symlink_is_not_used(folder: Path) -> None:
    (folder / "elsewhere").mkdir(mode=0o700)
    channel.directory().symlink_to(folder / "elsewhere")
    with pytest.raises(UnavailableError, match="only this user"):
        channel.default_path("4000")


def test_a_directory_that_does_not_exist_is_said(folder: Path) -> None:
    with pytest.raises(UnavailableError, match="No such file"):
        listening(folder / "no" / "s")


def test_a_client_that_does_not_read_is_not_waited_for(folder: Path) -> None:
    """Nor is one that is gone; who comes after them is answered."""
    path = folder / "s"
    status = listening(path, {"much": "x" * 10_000_000})
    with socket.socket(socket.AF_UNIX) as lazy, socket.socket(socket.AF_UNIX) as reader:
        lazy.connect(str(path))
        with socket.socket(socket.AF_UNIX) as gone:
            gone.connect(str(path))
        reader.connect(str(path))
        status.attend(0.0)
        assert len(status.waitables) == 3
        status.attend(channel.REQUEST_TIMEOUT)
        assert reader.recv(100).startswith(b'{"much": "xxx')
        assert lazy.recv(100).startswith(b'{"much": "xxx')
    assert status.waitables
    status.end()


def test_no_descriptor_left_is_no_reason_to_spin(folder: Path) -> None:
    """The supervisor would be woken at once, again and again, by a client it cannot accept."""
    status = listening(folder / "s", {"fine": True})
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
        client.sendall(b'["status"]\n')
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
            pytest.raises(UnavailableError, match=r"4000\.sock, .*4002\.sock; choose with --p"),
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
            listening(path)
        assert ask(path) == {"now": 7.0}


def test_a_command_is_done_once_and_its_answer_told(folder: Path) -> None:
    with Answering(folder / "s"):
        assert ask(folder / "s", ["recycle", "3"]) == {"done": "recycle 3", "now": 7.0}


def test_a_command_that_fails_is_not_tried_again(folder: Path) -> None:
    """The fault is the supervisor's to log; who has asked gets no answer, and the next one does."""
    tried = []

    def fail(words: Sequence[str], now: float) -> dict[str, Any]:
        tried.append(words)
        raise RuntimeError("a bug")

    status = SupervisorSocket(folder / "s", lambda now: {"now": now}, fail)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / "s"))
        client.sendall(b'["roll"]\n')
        with pytest.raises(RuntimeError):
            status.attend(0.0)
        assert client.recv(100) == b""
        status.attend(5.0)
    status.end()
    assert tried == [["roll"]]


def test_a_supervisor_of_before_commands_is_asked_all_the_same(folder: Path) -> None:
    """It answers and closes without reading."""
    with socket.socket(socket.AF_UNIX) as former:
        former.bind(str(folder / "s"))
        former.listen()

        def answer() -> None:
            for _ in range(2):
                client, _ = former.accept()
                client.sendall(b'{"fine": true}')
                client.close()

        thread = threading.Thread(target=answer)
        thread.start()
        assert ask(folder / "s") == {"fine": True}
        assert ask(folder / "s", ["roll"]) == {"fine": True}
        thread.join()


def test_the_proxy_on_a_port_is_asked_or_none() -> None:
    with Answering(channel.default_path("4000"), {"supervisor": {"port": 4000}}):
        assert ask(chosen(None, 4000))["supervisor"]["port"] == 4000
        with pytest.raises(UnavailableError, match=r"no supervisor runs at .*4001\.sock"):
            ask(chosen(None, 4001))
        path = channel.default_path("4000")
        assert chosen(path, None) == chosen(path, 4000) == path
        with pytest.raises(UnavailableError, match="does not serve port 4001"):
            chosen(path, 4001)


@pytest.mark.parametrize("supervisor", [None, [], {}, {"port": "4000"}])
def test_who_does_not_say_its_port_is_not_the_one(folder: Path, supervisor: Any) -> None:
    with (
        Answering(folder / "s", {"supervisor": supervisor}),
        pytest.raises(UnavailableError, match="does not serve port 4000"),
    ):
        chosen(folder / "s", 4000)
