"""The supervisor's socket when its clients, or who answers in its place, are broken or hostile."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import multiprocessing
import multiprocessing.connection
import os
import resource
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typing_extensions import Self

from litellm_resilience.command import status as command
from litellm_resilience.status import channel, table
from litellm_resilience.status.channel import SupervisorSocket, UnavailableError, ask
from litellm_resilience.status.document import document
from litellm_resilience.supervisor.journal import Journal
from litellm_resilience.supervisor.scoreboard import Scoreboard

pytestmark = pytest.mark.skipif(os.name != "posix", reason="no Unix sockets here")

STATE = {"fine": True}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="lr") as path:
        yield Path(path)


class Supervising:
    """A supervisor's loop, reduced to its socket, that notes what it is told to do."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.faults: list[BaseException] = []
        self.done: list[Sequence[str]] = []
        self._socket = SupervisorSocket(path, lambda _: STATE, self._perform)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._socket.end()
        assert not self.faults

    def _perform(self, words: Sequence[str], now: float) -> dict[str, Any]:
        del now
        self.done.append(words)
        return {"done": ""}

    def _run(self) -> None:
        while not self._done.is_set():
            multiprocessing.connection.wait(self._socket.waitables, 0.01)
            try:
                self._socket.attend(time.monotonic())
            except BaseException as error:
                self.faults.append(error)

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(self.path))
        return client


def say(client: socket.socket, data: bytes) -> None:
    client.settimeout(1)
    with contextlib.suppress(OSError):
        client.sendall(data)


def received(client: socket.socket) -> bytes:
    """Return all that it is told; a connection with unread data ends with a reset."""
    client.settimeout(10)
    told = b""
    with contextlib.suppress(ConnectionError):
        while part := client.recv(65536):
            told += part
    return told


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def half_close(client: socket.socket, which: int) -> None:
    with contextlib.suppress(OSError):
        client.shutdown(which)


MANNERS: dict[str, Callable[[socket.socket], object]] = {
    "says nothing and never reads": lambda client: None,
    "says a lot": lambda client: say(client, b"\x00\xff" * 5_000_000),
    "resets": reset,
    "is done with writing": lambda client: half_close(client, socket.SHUT_WR),
    "is done with reading": lambda client: half_close(client, socket.SHUT_RD),
}


NO_REQUEST = {
    "no end of line": b'["roll"]',
    "half a word": b'["roll',
    "a mapping": b'{"command": "roll"}\n',
    "no words": b"[]\n",
    "a word": b'"roll"\n',
    "a number": b"[1]\n",
    "null": b'["roll", null]\n',
    "no UTF-8": b"\xff\n",
    "a bomb of lists": b"[" * 10_000 + b"\n",
    "a number of many digits": b"9" * 10_000 + b"\n",
    "an empty line": b"\n",
    "a line too long": b"[" + b" " * channel.LARGEST_REQUEST + b'"roll"]\n',
    "an endless word": b'["roll", "' + b"x" * 1_000_000,
}


def fill(path: Path, waiting: contextlib.ExitStack) -> None:
    """Connect until nobody else can."""
    with contextlib.suppress(BlockingIOError):
        while True:
            client = waiting.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            client.connect(str(path))


class TestClients:
    @settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.binary(max_size=300), max_size=5))
    @example([b'{"command": "stop"}\n', b"GET / HTTP/1.1\r\n\r\n"])
    @example([b"\x80\x04cos\nsystem\n(S'exit'\ntR."])
    def test_whatever_they_say_nothing_is_done(self, folder: Path, said: list[bytes]) -> None:
        """None of it is a list of words in one line; the next client gets the state."""
        with Supervising(folder / "s") as supervisor, supervisor.connect() as client:
            for data in said:
                say(client, data)
            half_close(client, socket.SHUT_WR)
            told = json.loads(received(client))
            assert told == STATE if not any(said) else "refused" in told
            assert ask(supervisor.path) == STATE
            assert sorted(path.name for path in folder.iterdir()) == ["s", "s.lock"]
        assert supervisor.done == []

    @settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(st.text(max_size=30), min_size=1, max_size=4), st.binary(max_size=20), st.data()
    )
    @example(["recycle", "1"], b'\n["stop"]\n', None)
    @example(["status"], b"", None)
    def test_a_command_arrives_as_it_was_said_however_it_is_cut(
        self, folder: Path, words: list[str], after: bytes, data: st.DataObject | None
    ) -> None:
        """And only once, whatever is said after it."""
        line = json.dumps(words).encode() + b"\n"
        cut = data.draw(st.integers(0, len(line))) if data else 1
        with Supervising(folder / "s") as supervisor, supervisor.connect() as client:
            say(client, line[:cut])
            say(client, line[cut:] + after)
            told = json.loads(received(client))
        assert told == (STATE if words == ["status"] else {"done": ""})
        assert supervisor.done == ([] if words == ["status"] else [words])

    @pytest.mark.parametrize("said", NO_REQUEST)
    @pytest.mark.parametrize("ends", [True, False])
    def test_half_a_command_or_none_is_refused(
        self, folder: Path, said: str, ends: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also if the rest is only awaited."""
        monkeypatch.setattr(channel, "REQUEST_TIMEOUT", 0.1)
        with Supervising(folder / "s") as supervisor, supervisor.connect() as client:
            say(client, NO_REQUEST[said])
            if ends:
                half_close(client, socket.SHUT_WR)
            assert "a request is " in json.loads(received(client))["refused"]
        assert supervisor.done == []

    @pytest.mark.parametrize("manners", MANNERS)
    def test_a_client_that_misbehaves_costs_others_nothing(
        self, folder: Path, manners: str
    ) -> None:
        with Supervising(folder / "s") as supervisor, contextlib.ExitStack() as open_clients:
            for _ in range(10):
                client = open_clients.enter_context(supervisor.connect())
                MANNERS[manners](client)
            assert ask(supervisor.path) == STATE

    def test_two_hundred_at_once_are_all_answered(self, folder: Path) -> None:
        answers: list[Any] = []

        def client() -> None:
            answers.append(ask(folder / "s"))

        clients = [threading.Thread(target=client, daemon=True) for _ in range(200)]
        with Supervising(folder / "s"):
            for thread in clients:
                thread.start()
            for thread in clients:
                thread.join(20)
        assert answers == [STATE] * 200

    def test_who_finds_the_queue_full_waits(self, folder: Path) -> None:
        with contextlib.ExitStack() as waiting, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "s"))
            listener.listen(0)
            listener.settimeout(0.1)
            fill(folder / "s", waiting)
            answers: list[Any] = []
            asking = threading.Thread(target=lambda: answers.append(ask(folder / "s")), daemon=True)
            asking.start()
            while asking.is_alive():
                with contextlib.suppress(OSError), listener.accept()[0] as accepted:
                    accepted.sendall(json.dumps(STATE).encode())
            assert answers == [STATE]

    def test_a_flood_of_clients_does_not_keep_the_supervisor_from_its_workers(
        self, folder: Path
    ) -> None:
        """For each that is answered another one is there: the answers must end nevertheless."""
        path = folder / "s"
        flood: list[socket.socket] = []

        def connect() -> None:
            client = socket.socket(socket.AF_UNIX)
            client.connect(str(path))
            flood.append(client)

        status = SupervisorSocket(path, lambda _: STATE, lambda _, __: {})
        accept = status._socket.accept
        given = 0

        class Endless:
            """The listener, with one more client for each that is taken."""

            def accept(self) -> Any:
                nonlocal given
                given += 1
                assert given < 10_000, "it never ends"
                connect()
                return accept()

            def close(self) -> None:
                listener.close()

        listener, status._socket = status._socket, Endless()  # type: ignore[assignment]
        status.attend(0.0)
        assert given == channel.MOST_CLIENTS
        assert listener not in status.waitables
        first = flood[:given]
        status.attend(channel.REQUEST_TIMEOUT)
        for client in first:
            assert json.loads(client.recv(1000)) == STATE
        for client in flood:
            client.close()
        status.end()


def genuine() -> dict[str, Any]:
    """Return what a supervisor with one worker tells."""
    board = Scoreboard.create(multiprocessing.get_context("spawn"), 2)
    board.row(board.claim()).started_at = 1.0
    journal = Journal(logging.getLogger())
    journal.recent.append((2.0, "Worker 1 (pid 7) started"))
    return document(board, journal, 6, 4000, 3.0)


def with_text(text: str) -> bytes:
    state = genuine()
    state["workers"][0]["reason"] = state["events"][0]["event"] = text
    state["supervisor"]["start_method"] = state["workers"][0]["state"] = text
    return json.dumps(state).encode()


class Impostor:
    """Answers in a supervisor's place."""

    def __init__(self, path: Path, answer: Callable[[socket.socket], object]) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self._answer = answer
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client, contextlib.suppress(OSError):
                    self._answer(client)


def once(answer: bytes) -> Callable[[socket.socket], object]:
    return lambda client: client.sendall(answer)


def endlessly(client: socket.socket) -> None:
    while True:
        client.sendall(b" " * 65536)


def drop_by_drop(client: socket.socket) -> None:
    done = threading.Event()
    while not done.wait(0.05):
        client.sendall(b" ")


def silently(client: socket.socket) -> None:
    while client.recv(1000):
        """Only listen."""


ENDLESS_AGO = {"seconds_ago": math.inf, "event": "x"}
GARBAGE = {
    "nothing": b"",
    "text": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "no UTF-8": b"\xff\xfe\xfa{}",
    "half a document": json.dumps(genuine()).encode()[:-40],
    "a list": b"[]",
    "a string": b'"fine"',
    "null": b"null",
    "a bomb of lists": b"[" * 200_000 + b"]" * 200_000,
    "a bomb of objects": b'{"workers":' * 100_000 + b"1" + b"}" * 100_000,
    "a number of many digits": b'{"workers": ' + b"9" * 100_000 + b"}",
    "an empty object": b"{}",
    "another version": b'{"version": 2, "supervisor": {"pid": 1}, "workers": {}, "events": []}',
    "wrong types": json.dumps({**genuine(), "workers": [1, None, "x"]}).encode(),
    "infinity": json.dumps(
        {**genuine(), "events": [{"seconds_ago": 1e999, "event": "x"}]}
    ).encode(),
    "a mapping for a text": json.dumps({**genuine(), "totals": {"requests": {}}}).encode(),
}


GENUINE = genuine()
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*GENUINE, *GENUINE["workers"][0], *GENUINE["supervisor"], "event"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=8,
)


class TestImpostors:
    @pytest.mark.parametrize("garbage", GARBAGE)
    def test_garbage_is_a_clear_error(
        self, folder: Path, garbage: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with Impostor(folder / "s", once(GARBAGE[garbage])):
            assert command.run(folder / "s", as_json=False, watch=False) == 1
            assert command.run(folder / "s", as_json=False, watch=True) == 1
            assert command.run(folder / "s", as_json=True, watch=False) in {0, 1}
        error = capsys.readouterr().err
        for line in error.splitlines():
            assert line.startswith(f"No status: {folder / 's'}: what answers there is no super")
        assert len(error.splitlines()) >= 2

    @settings(max_examples=100)
    @given(ANYTHING, st.sampled_from([*GENUINE, None]))
    def test_no_document_is_a_traceback(self, value: Any, key: str | None) -> None:
        """Also one that is right but for one member."""
        state = value if key is None else {**GENUINE, key: value}
        with contextlib.suppress(UnavailableError):
            shown = command._table(Path("s"), state)
            assert all(line.isascii() and line.isprintable() for line in shown.split("\n"))

    @pytest.mark.parametrize(
        "text",
        ["\x1b[2J\x1b]0;owned\x07", "\x9b31m", "a\rb", "a\nb", "\u202eevil", "\ud800", "caf\u00e9"],
    )
    def test_nothing_that_a_terminal_obeys_is_printed(
        self, folder: Path, text: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with Impostor(folder / "s", once(with_text(text))):
            assert command.run(folder / "s", as_json=False, watch=False) == 0
            table_of_it = capsys.readouterr().out
            assert command.run(folder / "s", as_json=True, watch=False) == 0
            json_of_it = capsys.readouterr().out
        assert "?" in table_of_it
        for shown in (table_of_it, json_of_it):
            assert all(line.isascii() and line.isprintable() for line in shown.split("\n"))
        assert json.loads(json_of_it)["workers"][0]["reason"] == text

    @pytest.mark.parametrize("answer", [silently, drop_by_drop])
    def test_a_slow_answer_is_not_waited_for(
        self,
        folder: Path,
        answer: Callable[[socket.socket], object],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Neither is one that never falls silent for long."""
        monkeypatch.setattr(channel, "ANSWER_TIMEOUT", 0.3)
        began = time.monotonic()
        with Impostor(folder / "s", answer), pytest.raises(UnavailableError, match=r"0\.3 s|timed"):
            ask(folder / "s")
        assert time.monotonic() - began < 5

    def test_an_endless_answer_is_not_kept(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with (
            Impostor(folder / "s", endlessly),
            pytest.raises(UnavailableError, match="is no supervisor"),
        ):
            ask(folder / "s")
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown * 1024 < 4 * channel.LARGEST_ANSWER

    def test_no_place_for_temporary_files_is_a_clear_error(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def nowhere() -> str:
            raise FileNotFoundError(2, "No usable temporary directory found")

        monkeypatch.setattr(tempfile, "gettempdir", nowhere)
        assert command.run(None, as_json=False, watch=False) == 1
        assert "no directory for temporary files" in capsys.readouterr().err


def test_what_a_terminal_cannot_encode_is_printed_all_the_same(folder: Path) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    stream.write(table.render(json.loads(with_text("caf\u00e9 \U0001f600"))))
    stream.flush()
