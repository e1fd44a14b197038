"""A real proxy as a child process, with its config, log and workers. Linux only: it reads /proc."""

from __future__ import annotations

import contextlib
import copy
import http
import http.client
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from litellm_resilience.demo.lifetime import Repeating, Started

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from typing_extensions import Self

T = TypeVar("T")

RESILIENT = (sys.executable, "-m", "litellm_resilience")
"""The command of this package."""

PREFIX = "demo_"
"""Of the names of copied callbacks."""

POLL_INTERVAL = 0.1
"""Seconds between two looks at a condition that is waited for."""
LOOKS_APART = 0.02
"""Seconds between two looks at who accepts: longer than a worker leaves a connection to others."""

_LISTEN = "0A"
_DROPPED_ENV = frozenset(
    {
        "CONFIG_FILE_PATH",
        "DATABASE_URL",
        "DEFAULT_NUM_WORKERS_LITELLM_PROXY",
        "DIRECT_URL",
        "KEEPALIVE_TIMEOUT",
        "MAX_REQUESTS_BEFORE_RESTART",
        "NUM_WORKERS",
        "REDIS_HOST",
        "REDIS_URL",
        "STORE_MODEL_IN_DB",
        "WORKER_CONFIG",
    }
)


class ProxyError(RuntimeError):
    """The proxy ended, or did not do in time what was waited for; the log's tail is included."""


def default_config(
    base_url: str, providers: Sequence[str] = ("openai", "hosted_vllm")
) -> dict[str, Any]:
    """A LiteLLM config with one model per provider, named ``demo-openai``, ``demo-vllm``.

    Args:
        base_url: ``api_base`` of the upstream.
        providers: LiteLLM provider names; ``demo-`` and the name without ``hosted_`` makes the
            model's name.
    """
    return {
        "model_list": [
            {
                "model_name": f"demo-{provider.removeprefix('hosted_')}",
                "litellm_params": {
                    "model": f"{provider}/fake-model",
                    "api_base": base_url,
                    "api_key": "sk-fake",
                },
            }
            for provider in providers
        ]
    }


def chat(model: str, **extra: Any) -> dict[str, Any]:
    """Return the body of a small chat request.

    Args:
        model: a model name of the config.
        extra: further fields, such as ``stream``.
    """
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], **extra}


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Proxy(Started):
    """A proxy started as the leader of its own session and process group; a context manager.

    The environment is the caller's without the variables that configure a LiteLLM proxy
    (``LITELLM_*`` among them, save ``LITELLM_RESILIENCE_*``), plus
    ``LITELLM_LOCAL_MODEL_COST_MAP=True`` and an exception for 127.0.0.1 from any HTTP proxy.

    Args:
        argv: the command without options, such as ``[sys.executable, "-m", "litellm_resilience"]``.
        config: LiteLLM config (see `default_config`); ``general_settings.master_key`` is set to a
            random key unless given.
        options: further command-line options.
        callbacks: Python files with a LiteLLM callback called ``handler``; older LiteLLM (1.89 for
            one) loads them only from beside the config file, so they are copied there.

    Attributes:
        host: address the proxy listens on.
        port: its TCP port.
        master_key: the key for requests.
        directory: holds the config and the log; removed by `stop`.
        log_path: stdout and stderr of the proxy.
        killed: process ids that `stop` had to kill.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        argv: Sequence[str],
        config: Mapping[str, Any],
        options: Sequence[str] = (),
        *,
        callbacks: Sequence[Path] = (),
    ) -> None:
        self._argv = list(argv)
        self._options = list(options)
        self._callbacks = list(callbacks)
        self._process: subprocess.Popen[bytes] | None = None
        self._returncode: int | None = None
        self.config: dict[str, Any] = copy.deepcopy(dict(config))
        settings = self.config.setdefault("general_settings", {})
        self.master_key: str = settings.setdefault("master_key", f"sk-{secrets.token_urlsafe(32)}")
        if callbacks:
            litellm_settings = self.config.setdefault("litellm_settings", {})
            others = litellm_settings.get("callbacks", [])
            others = [others] if isinstance(others, str) else list(others)
            ours = [f"{PREFIX}{path.stem}.handler" for path in callbacks]
            litellm_settings["callbacks"] = [*others, *ours]
        self.port = 0
        self.directory = Path()
        self.log_path = Path()
        self.killed: list[int] = []

    @property
    def pid(self) -> int:
        """Process id of the command, which is also its process group; 0 before `start`."""
        return self._process.pid if self._process is not None else 0

    @property
    def base_url(self) -> str:
        """Base address of the proxy, without a path."""
        return f"http://{self.host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """The header fields that authorise a request."""
        return {"Authorization": f"Bearer {self.master_key}"}

    @property
    def command(self) -> list[str]:
        """The full command line."""
        return [
            *self._argv,
            "--config",
            str(self.directory / "config.yaml"),
            "--host",
            self.host,
            "--port",
            str(self.port),
            *self._options,
        ]

    def start(self) -> Self:
        """Start the process, without waiting until it serves.

        Raises:
            RuntimeError: it was started before.
            OSError: the command cannot be run.
        """
        if self._process is not None:
            raise RuntimeError("this proxy was started before")
        self.directory = Path(tempfile.mkdtemp(prefix="litellm-resilience-"))
        self.log_path = self.directory / "proxy.log"
        self.port = self.port or free_port()
        (self.directory / "config.yaml").write_text(json.dumps(self.config, indent=1))
        for path in self._callbacks:
            shutil.copyfile(path, self.directory / f"{PREFIX}{path.name}")
        try:
            with self.log_path.open("wb") as log:
                self._process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    **self.process_arguments(),
                )
        except OSError:
            self.remove_files()
            raise
        return self

    def process_arguments(self) -> dict[str, Any]:
        """Further arguments of `subprocess.Popen`."""
        return {"env": child_environment({"TMPDIR": str(self.directory)})}

    def exit_status(self) -> int | None:
        """How the command ended: status, or minus the signal; None while it runs."""
        if self._returncode is not None or self._process is None:
            return self._returncode
        # Not reaped here: until stop() has signalled the group, its number must stay taken.
        with contextlib.suppress(ChildProcessError):
            ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if ended is None:
                return None
            return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        return self._process.poll()

    def log_text(self) -> str:
        """What the proxy has written so far."""
        try:
            return self.log_path.read_text(errors="replace")
        except OSError:
            return ""

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of the log."""
        return "\n".join(self.log_text().splitlines()[-lines:])

    def wait_ready(self, timeout: float = 120.0) -> None:
        """Wait until ``GET /health/liveliness`` is answered with 200.

        Args:
            timeout: seconds.

        Raises:
            ProxyError: it was not in time, or the process ended.
        """
        self.wait_for(self._is_live, timeout, "answer to /health/liveliness")

    def wait_workers(self, count: int, timeout: float = 120.0) -> list[int]:
        """Wait until at least `count` workers serve.

        Args:
            count: number of workers.
            timeout: seconds.

        Returns:
            Their process ids.

        Raises:
            ProxyError: there were fewer in time, or the process ended.
        """

        def enough() -> list[int] | None:
            serving = self.workers()
            return serving if len(serving) >= count else None

        return self.wait_for(enough, timeout, f"{count} serving workers")

    def workers(self) -> list[int]:
        """Process ids of the command's descendants that accept connections on the port now.

        A worker that is starting, or finishing its last requests, is not among them; a supervisor
        never is. One that leaves a connection to others for a few milliseconds is: hence two looks.
        """
        first = self._accepting()
        time.sleep(LOOKS_APART)
        return sorted({*first, *self._accepting()})

    def _accepting(self) -> list[int]:
        inodes = _listening_inodes(self.port)
        tree = descendants(self.pid) if self._process is not None else []
        return [pid for pid in tree if inodes and _accepts_on(pid, inodes)]

    def stop(self, timeout: float = 15.0) -> int | None:
        """Ask the command to end (SIGTERM), then kill what is left of its process group.

        Args:
            timeout: seconds between the two.

        Returns:
            How the command ended, see `exit_status`.
        """
        process = self._process
        if process is None or self._returncode is not None:
            return self._returncode
        with contextlib.suppress(ProcessLookupError):
            if self.exit_status() is None:
                os.kill(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + timeout
        while self.exit_status() is None and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL)
        self.killed = _group_members(process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        self._returncode = process.wait()
        self.remove_files()
        return self._returncode

    def _is_live(self) -> bool:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=5)
        try:
            connection.request("GET", "/health/liveliness", headers=self.headers)
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def wait_for(self, condition: Callable[[], T | None], timeout: float, what: str) -> T:
        """Wait until a condition has a true value, and return it.

        Args:
            condition: looked at again and again.
            timeout: seconds.
            what: is waited for, for the error.

        Raises:
            ProxyError: it had none in time, or the proxy has ended; with the end of its log.
        """
        deadline = time.monotonic() + timeout
        while True:
            ended = self.exit_status()
            result = condition()
            if result:
                return result
            if ended is not None:
                problem = f"the proxy ended with status {ended}: no {what}"
            elif time.monotonic() >= deadline:
                problem = f"no {what} within {timeout:g} s"
            else:
                time.sleep(POLL_INTERVAL)
                continue
            raise ProxyError(f"{problem}\nend of its log:\n{self.log_tail()}")

    def remove_files(self) -> None:
        """Remove the directory."""
        shutil.rmtree(self.directory, ignore_errors=True)


class WorkerWatcher(Repeating):
    """Notes which workers of a proxy come and go, from a thread; a context manager.

    Args:
        proxy: the proxy, already started.
        interval: seconds between two looks.

    Attributes:
        serving: process ids of the workers seen at the last look.
        joined: process ids with the ``time.monotonic()`` at which they were first seen serving.
        left: process ids with the time at which they were first seen not to serve any more.
    """

    def __init__(self, proxy: Proxy, interval: float = 0.25) -> None:
        super().__init__(interval)
        self._proxy = proxy
        self.serving: list[int] = []
        self.joined: dict[int, float] = {}
        self.left: dict[int, float] = {}

    def look(self) -> None:
        """Look once."""
        serving = self._proxy.workers()
        now = time.monotonic()
        for pid in serving:
            self.joined.setdefault(pid, now)
        for pid in self.serving:
            if pid not in serving:
                self.left.setdefault(pid, now)
        self.serving = serving

    def start(self) -> Self:
        """Look once, then start the thread."""
        self.look()
        return super().start()


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of a proxy that nothing of the caller's configures, and these variables."""
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in _DROPPED_ENV
        and (name.startswith("LITELLM_RESILIENCE_") or not name.startswith("LITELLM_"))
    }
    for name in ("NO_PROXY", "no_proxy"):
        env[name] = ",".join(filter(None, [env.get(name), "127.0.0.1", "localhost"]))
    return {
        **env,
        "PYTHONUNBUFFERED": "1",
        **extra,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }


def _stat_fields(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on: state, parent, group, session and so on."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return stat[stat.rindex(")") + 2 :].split()


def _living() -> dict[int, list[str]]:
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    found = ((pid, _stat_fields(pid)) for pid in pids)
    return {pid: stat for pid, stat in found if stat is not None and stat[0] not in "ZX"}


def descendants(root: int) -> list[int]:
    """Process ids of a process and all its living descendants."""
    living = _living()
    tree = [root]
    for pid in tree:
        tree += [child for child, stat in living.items() if int(stat[1]) == pid]
    return sorted(pid for pid in tree if pid in living)


def _group_members(group: int) -> list[int]:
    return sorted(pid for pid, stat in _living().items() if int(stat[2]) == group)


def _listening_inodes(port: int) -> set[str]:
    inodes: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), Path(table).open() as lines:
            next(lines)
            for line in lines:
                _, local, _, state, *_, inode = line.split()[:10]
                if state == _LISTEN and int(local.rpartition(":")[2], 16) == port:
                    inodes.add(inode)
    return inodes


def _accepts_on(pid: int, inodes: set[str]) -> bool:
    """Whether an epoll instance of the process watches one of these listening sockets."""
    sockets = {f"socket:[{inode}]" for inode in inodes}
    listening: set[str] = set()
    epolls: list[str] = []
    try:
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            target = os.fspath(descriptor.readlink())
            if target in sockets:
                listening.add(descriptor.name)
            elif target == "anon_inode:[eventpoll]":
                epolls.append(descriptor.name)
    return bool(listening) and any(listening & _watched(pid, name) for name in epolls)


def _watched(pid: int, epoll: str) -> set[str]:
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/fdinfo/{epoll}").read_text()
        return set(re.findall(r"^tfd:\s+(\d+)", text, re.MULTILINE))
    return set()
