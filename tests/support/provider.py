"""The demo's provider as a process: ``python -m tests.support.provider``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from litellm_resilience.demo.lifetime import Started
from litellm_resilience.demo.provider import FakeProvider, ProviderSettings, ProviderStats

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

ROOT = Path(__file__).parents[2]
CONTROL_PATH = "/_demo"
"""``GET`` answers the counters and settings as JSON; ``POST`` changes settings."""


class ProviderProcess(Started):
    """A `FakeProvider` in a process of its own, so that it shares no CPython lock with the caller.

    A context manager. Takes the settings of `ProviderSettings` as keyword arguments.
    """

    def __init__(self, **settings: float) -> None:
        self._settings = settings
        self._process: subprocess.Popen[str] | None = None
        self._own_connections = 0
        self.port = 0

    @property
    def base_url(self) -> str:
        """The ``api_base`` for LiteLLM."""
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> Self:
        """Start the process and return once it listens.

        Raises:
            RuntimeError: the process ended before it listened.
            ValueError: a setting is unknown or out of range.
        """
        ProviderSettings().change(self._settings)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.provider"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self._process = process
        line = process.stdout.readline() if process.stdout is not None else ""
        if not line:
            self.stop()
            raise RuntimeError("the provider process ended before it listened")
        self.port = int(json.loads(line)["port"])
        if self._settings:
            self.configure(**self._settings)
        return self

    def stats(self) -> ProviderStats:
        """The counters now; the connections made to ask are left out.

        Raises:
            OSError: the process does not answer.
        """
        stats = self._control(None)["stats"]
        self._own_connections += 1
        stats["connections_opened"] -= self._own_connections
        stats["connections_open"] -= 1
        return ProviderStats(**stats)

    def configure(self, **settings: float) -> None:
        """Change settings (see `ProviderSettings`).

        Raises:
            OSError: the process does not answer, or refused the settings.
        """
        self._control(settings)
        self._own_connections += 1

    def _control(self, settings: Mapping[str, float] | None) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{CONTROL_PATH}",
            data=None if settings is None else json.dumps(settings).encode(),
            headers={"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as reply:
            answer: dict[str, Any] = json.load(reply)
        return answer

    def stop(self, timeout: float = 5.0) -> None:
        """End the process: close its standard input, then kill it after `timeout` seconds."""
        process, self._process = self._process, None
        if process is None:
            return
        with process:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()


class _ControlledProvider(FakeProvider):
    """Answers at `CONTROL_PATH` too; such requests are not counted."""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path != CONTROL_PATH:
            return await super().handle(request)
        if request.method == "POST":
            try:
                self.settings.change(await request.json())
            except (ValueError, AttributeError) as error:
                return web.json_response({"error": str(error)}, status=400)
        return web.json_response({"stats": asdict(self.stats()), "settings": asdict(self.settings)})


async def _serve_until_input_ends(port: int) -> None:
    loop = asyncio.get_running_loop()
    async with _ControlledProvider(port=port) as provider:
        print(json.dumps({"port": provider.port, "base_url": provider.base_url}), flush=True)
        ended = asyncio.Event()

        def watch() -> None:
            sys.stdin.read()
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(ended.set)

        threading.Thread(target=watch, daemon=True).start()
        await ended.wait()


def main() -> None:
    """Serve until standard input ends; the first line printed is JSON with port and base_url."""
    parser = argparse.ArgumentParser(description="A fake OpenAI-compatible provider.")
    parser.add_argument("--port", type=int, default=0, help="TCP port (default: a free one)")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve_until_input_ends(parser.parse_args().port))


if __name__ == "__main__":
    main()
