"""A real proxy as a process, with what only tests and benchmarks ask of it. Linux only."""

from __future__ import annotations

import json
import re
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litellm_resilience.demo import close_session
from litellm_resilience.demo.proxy import Proxy, child_environment, descendants
from tests.support import sabotage

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

PLAIN = (sys.executable, "-c", "from litellm.proxy.proxy_cli import run_server; run_server()")
"""LiteLLM's own command, in the same environment."""

FAULTS = tuple(Path(module.__file__ or "") for module in (close_session, sabotage))
"""Callbacks that cause the faults which requests ask for."""


class ProxyProcess(Proxy):
    """A proxy whose surroundings can be chosen.

    Args:
        argv: see `Proxy`.
        config: see `Proxy`.
        options: see `Proxy`.
        env: further environment variables.
        port: TCP port on 127.0.0.1; 0 chooses a free one.
        sabotage: let requests cause the faults of `tests.support.sabotage`.
        callbacks: further files of callbacks.
        cwd: working directory of the proxy; None for the caller's.
        keep_files: do not remove `directory`.

    Attributes:
        worker_pids_seen: worker process ids with the ``time.monotonic()`` at which `workers` first
            saw them.
    """

    def __init__(
        self,
        argv: Sequence[str],
        config: Mapping[str, Any],
        options: Sequence[str] = (),
        *,
        env: Mapping[str, str] | None = None,
        port: int = 0,
        sabotage: bool = False,
        callbacks: Sequence[Path] = (),
        cwd: str | os.PathLike[str] | None = None,
        keep_files: bool = False,
    ) -> None:
        files = (*callbacks, *(FAULTS if sabotage else ()))
        super().__init__(argv, config, options, callbacks=files)
        self._env = dict(env or {})
        self._cwd = cwd
        self._keep_files = keep_files
        self.port = port
        self.worker_pids_seen: dict[int, float] = {}

    def process_arguments(self) -> dict[str, Any]:
        """Further arguments of `subprocess.Popen`."""
        extra = {"TMPDIR": str(self.directory), "RELOAD_TRIAL": "0", **self._env}
        return {"env": child_environment(extra), "cwd": self._cwd}

    def fetch(self, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        """Return what the proxy answers with the master key, over a connection of its own.

        Args:
            path: of the endpoint.
            body: sent as JSON; None to GET.

        Raises:
            OSError: it does not answer within 30 s, or with an error.
        """
        request = urllib.request.Request(
            self.base_url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={**self.headers, "Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as reply:
            content: bytes = reply.read()
            return content

    def new_key(self, model: str) -> str:
        """Return a new virtual key for a model; the proxy needs a database for that."""
        key: str = json.loads(self.fetch("/key/generate", {"models": [model]}))["key"]
        return key

    def wait_for_log(self, pattern: str, timeout: float) -> re.Match[str]:
        """Wait until the log matches a regular expression (``re.MULTILINE``).

        Args:
            pattern: the regular expression.
            timeout: seconds.

        Raises:
            ProxyError: it did not in time, or the process ended without it.
        """
        expression = re.compile(pattern, re.MULTILINE)
        return self.wait_for(
            lambda: expression.search(self.log_text()), timeout, f"log line matching {pattern!r}"
        )

    def processes(self) -> list[int]:
        """Process ids of the command and all its living descendants."""
        return descendants(self.pid) if self._process is not None else []

    def workers(self) -> list[int]:
        """Process ids of the workers that serve; notes when each was first seen."""
        serving = super().workers()
        now = time.monotonic()
        for pid in serving:
            self.worker_pids_seen.setdefault(pid, now)
        return serving

    def remove_files(self) -> None:
        """Remove the directory, unless it is to be kept."""
        if not self._keep_files:
            super().remove_files()


class MarkedLog:
    """The log of a proxy from a mark on, for whoever drives one.

    Attributes:
        proxy: the proxy, started before anything is asked here.
    """

    proxy: ProxyProcess
    _seen = 0

    def mark(self) -> None:
        """Let `log` begin here."""
        self._seen = self.proxy.log_path.stat().st_size

    def log(self) -> str:
        """What was logged since `mark`."""
        with self.proxy.log_path.open("rb") as log:
            log.seek(self._seen)
            return log.read().decode(errors="replace")
