"""A supervised service without LiteLLM, started in a fraction of a second, and its client."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from litellm_resilience.demo.proxy import free_port
from litellm_resilience.status.channel import ask
from tests.support.watch import settled

HERE = Path(__file__).parent
EVENT = r"Worker \d+ \(pid (\d+)\) "
DEADLINE = 30.0


def wait_for(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    """Return the condition's first true value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.01)
    return value


def alive(pid: int) -> bool:
    """Say whether a process runs (a zombie does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def probe(port: int, path: str) -> tuple[int, Any]:
    """Return status and body; status 0 if nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except OSError:
        return 0, None


class Client:
    """One keep-alive connection that never retries and never opens another."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        self._connection = (
            http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            if context is None
            else http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)
        )
        self._connection.connect()
        self._connection.auto_open = 0
        self.told_to_close = False

    def get(self, path: str = "/") -> str:
        """Return the body of the reply."""
        self._connection.request("GET", path)
        response = self._connection.getresponse()
        self.told_to_close = response.getheader("connection", "") == "close"
        body = response.read().decode()
        assert response.status == 200, body
        return body

    def status(self) -> int:
        """Return the status of a reply."""
        self._connection.request("GET", "/")
        response = self._connection.getresponse()
        response.read()
        return response.status

    def pid(self) -> int:
        """Return which worker answers."""
        return int(self.get().split()[0])

    def begin(self, path: str) -> Callable[[], str]:
        """Send a request; return what reads the rest of the reply."""
        self._connection.request("GET", path)

        def finish() -> str:
            response = self._connection.getresponse()
            self.told_to_close = response.getheader("connection", "") == "close"
            return response.read().decode()

        return finish

    def close(self) -> None:
        self._connection.close()


class Service:
    """The service as a process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._log = directory / "log"
        # pytest's own are too long for a socket.
        self._sockets = tempfile.TemporaryDirectory(prefix="lr")
        self.port = 0
        self.context: ssl.SSLContext | None = None

    def start(
        self,
        *,
        workers: int = 2,
        limit: int | None = None,
        jitter: int = 0,
        settings: dict[str, float] | None = None,
        recycling: dict[str, Any] | None = None,
        start: str = "fork",
        visibility: dict[str, Any] | None = None,
        keep_helpers: Sequence[str] = (),
        before: Callable[[], object] | None = None,
        wrapper: Sequence[str] = (),
        watched_config: str | None = None,
        environment: Mapping[str, str] | None = None,
        ready: int | None = None,
        **arguments: Any,
    ) -> None:
        """Start it and wait until the workers are ready."""
        self.port = free_port()
        options = {
            "settings": settings or {},
            "recycling": recycling or {},
            "start": start,
            "visibility": visibility or {},
            "watched_config": watched_config,
            "keep_helpers": list(keep_helpers),
            "limit": limit,
            "jitter": jitter,
            "uvicorn": {"port": self.port, "workers": workers, "access_log": False, **arguments},
        }
        path = os.pathsep.join([str(HERE), *sys.path])
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*wrapper, sys.executable, str(HERE / "small_service.py"), json.dumps(options)],
                cwd=self._directory,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={
                    **os.environ,
                    "PYTHONPATH": path,
                    "TMPDIR": self._sockets.name,
                    **(environment or {}),
                },
                preexec_fn=before,  # noqa: PLW1509 - no threads here
            )
        wanted = workers if ready is None else ready
        self.wait(lambda: len(self.ever_ready()) >= wanted, f"{wanted} ready workers")

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def count(self, text: str) -> int:
        return self.log().count(text)

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for a condition; the log is shown if it does not come true."""
        try:
            return wait_for(condition, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; log:\n{self.log()}") from None

    def wait_log(self, text: str, times: int = 1) -> None:
        self.wait(lambda: self.count(text) >= times, f"{times} times {text!r} in the log")

    def ever_started(self) -> list[int]:
        """Return the pids of all workers that were ever started, oldest first."""
        return [int(pid) for pid in re.findall(f"{EVENT}started", self.log())]

    def ever_ready(self) -> list[int]:
        """Return the pids of all workers that were ever ready, oldest first."""
        return [int(pid) for pid in re.findall(f"{EVENT}ready", self.log())]

    def new_proxies(self) -> list[int]:
        """Return the pids of all proxies that were started to take over, oldest first."""
        return [int(pid) for pid in re.findall(r"started /.*\(process (\d+)\)", self.log())]

    def helpers(self) -> list[int]:
        """Return the pids of all processes that workers have started, oldest first."""
        noted = self._directory / "helpers"
        return [int(pid) for pid in noted.read_text().split()] if noted.exists() else []

    def ended(self) -> list[int]:
        """Return the pids of all processes that have run their exit hook, oldest first."""
        noted = self._directory / "ended"
        return [int(pid) for pid in noted.read_text().split()] if noted.exists() else []

    def note_helper(self, pid: int) -> None:
        """Add a process to those that end with the test."""
        with (self._directory / "helpers").open("a") as file:
            file.write(f"{pid}\n")

    def start_helper(self, worker: int, kind: str) -> int:
        """Have a worker start a process that does not end by itself; return its pid."""
        client = self.client_of(worker)
        client.get(f"/helper/{kind}")
        client.close()
        helper = self.helpers()[-1]
        assert alive(helper)
        return helper

    def living(self) -> list[int]:
        return [pid for pid in self.ever_ready() if alive(pid)]

    def wait_living(self, count: int) -> list[int]:
        """Wait until exactly so many workers that were ready live."""
        self.wait(lambda: len(self.living()) == count, f"{count} living workers")
        return self.living()

    def wait_settled(self, count: int) -> list[int]:
        """Wait until exactly so many workers serve and there are no others."""
        serving: list[int] = self.wait(
            lambda: settled(self.status()["workers"], count),
            f"{count} workers that serve, and no others",
        )
        return serving

    def set_mode(self, mode: str) -> None:
        (self._directory / "mode").write_text(mode)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def client(self) -> Client:
        return Client(self.port, self.context)

    def refuses(self) -> bool:
        """Say whether nobody takes a new connection."""
        try:
            self.client().close()
        except ConnectionRefusedError:
            return True
        return False

    def begin(self, path: str) -> Callable[[], str]:
        """Send a request and wait until a worker has it; return what reads the reply."""
        finish = self.client().begin(path)
        self.wait(lambda: sum(w["in_flight"] for w in self.status()["workers"]), "request")
        return finish

    def client_of(self, pid: int) -> Client:
        """Return a connection to this worker; until there is one, the others keep theirs."""
        deadline = time.monotonic() + DEADLINE
        with contextlib.ExitStack() as others:
            while time.monotonic() < deadline:
                client = self.client()
                if client.pid() == pid:
                    return client
                others.callback(client.close)
        raise AssertionError(f"worker {pid} never answered")

    @property
    def status_socket(self) -> Path:
        """Where its supervisor tells its state."""
        return Path(self._sockets.name) / f"litellm-resilience-{os.geteuid()}" / f"{self.port}.sock"

    def status(self) -> dict[str, Any]:
        """Return what the supervisor says of itself."""
        return ask(self.status_socket)

    def wait_exit(self) -> int:
        """Return the exit status."""
        self.wait(lambda: self.process.poll() is not None, "end")
        return self.process.wait()

    def kill_all(self) -> None:
        if self._process is not None:
            supervisors = [self._process.pid, *self.new_proxies()]
            for pid in [*supervisors, *self.ever_started(), *self.helpers()]:
                if alive(pid):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
        self._sockets.cleanup()


@contextlib.contextmanager
def asked(service: Service) -> Iterator[list[str]]:
    """Have four clients ask all the time, which must not fail; yields the replies so far."""
    stop = threading.Event()
    failures: list[Exception] = []
    replies: list[str] = []

    def ask_until_stopped() -> None:
        client = service.client()
        while not stop.is_set():
            try:
                replies.append(client.get("/wait/0.01"))
            except Exception as error:
                failures.append(error)
                return
            if client.told_to_close:
                client = service.client()

    threads = [threading.Thread(target=ask_until_stopped) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield replies
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
