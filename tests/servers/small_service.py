"""A small ASGI application under our supervisor, without LiteLLM, as a program.

Takes one JSON object: `settings`, `recycling` and `visibility` of `Supervision`, `start` (fork,
template or spawn), and
`uvicorn`, the arguments of `uvicorn.run`. What the application does is told by the path of a
request and by the file `mode` in the working directory.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import uvicorn

from litellm_resilience.repairs.base import Changes
from litellm_resilience.servers import supervised
from litellm_resilience.servers import uvicorn as uvicorn_server
from litellm_resilience.status.services import Visibility
from litellm_resilience.supervisor import takeover, upgrade
from litellm_resilience.supervisor.limits import Recycling
from litellm_resilience.supervisor.policy import Settings

HOARD: list[bytes] = []
HELPERS: list[subprocess.Popen[bytes]] = []
FAILS: list[bool] = []
SLEEP = ["sleep", "600"]


def mode() -> str:
    """Return what the tests want of workers that start now."""
    path = Path("mode")
    return path.read_text() if path.exists() else ""


def start_helper(kind: str) -> None:
    """Start a process that does not end by itself; its number is added to the file `helpers`."""
    if kind == "forked":
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(600)
            os._exit(0)
        note_helper(pid)
    elif kind == "orphan":
        shell = subprocess.run(
            ["sh", "-c", "sleep 600 >/dev/null & echo $!"], stdout=subprocess.PIPE, check=True
        )
        note_helper(int(shell.stdout))
    else:
        arguments: dict[str, dict[str, Any]] = {
            "child": {},
            "session": {"start_new_session": True},
            "bare": {"start_new_session": True, "env": {}},
        }
        stubborn = ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]
        command = stubborn if kind == "stubborn" else SLEEP
        helper = subprocess.Popen(command, **arguments.get(kind, {}))
        HELPERS.append(helper)
        note_helper(helper.pid)


def spin(seconds: float) -> None:
    """Keep a core busy."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def hold(seconds: float) -> None:
    """Keep Python's lock, so that no other thread runs."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


BLOCKING = {"block": time.sleep, "spin": spin, "hold": hold}


def note_helper(pid: int) -> None:
    with Path("helpers").open("a") as file:
        file.write(f"{pid}\n")


def note_end() -> None:
    """Add this process's number to the file `ended`."""
    with Path("ended").open("a") as file:
        file.write(f"{os.getpid()}\n")


def is_first() -> bool:
    """Say whether nobody has asked this before."""
    try:
        Path("first").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    if scope["type"] == "websocket":
        await _echo(scope["path"], receive, send)
        return
    while (await receive()).get("more_body"):
        pass
    action, _, argument = scope["path"].strip("/").partition("/")
    if action == "stream":
        await _stream(send, int(argument))
        return
    if action == "wait":
        await asyncio.sleep(float(argument))
    elif action in BLOCKING:
        BLOCKING[action](float(argument))
    elif action == "helper":
        start_helper(argument)
    elif action == "exit":
        os._exit(int(argument))
    elif action == "hoard":
        megabytes, _, seconds = argument.partition("/")
        HOARD.append(os.urandom(int(megabytes) * 1024 * 1024))
        await asyncio.sleep(float(seconds or 0))
    await _reply(send, f"{os.getpid()} {told(action)}".encode(), 500 if FAILS else 200)


def told(action: str) -> str:
    """Return what a request asks for besides the process id."""
    if action == "classes":
        main = importlib.import_module("uvicorn.main")
        return f"{main.Server.__name__} {main.Multiprocess.__name__}"
    return os.environ.get("OWNED", "") if action == "owned" else mode()


async def _lifespan(receive: Any, send: Any) -> None:
    await receive()
    condition, _, helper = mode().partition(" ")
    if helper:
        start_helper(helper)
    if condition == "slow" or (condition == "one-slow" and is_first()):
        await asyncio.sleep(3600)
    if condition == "block":
        time.sleep(3600)  # noqa: ASYNC251
    if condition == "failing":
        FAILS.append(True)
    if condition == "broken":
        await send({"type": "lifespan.startup.failed", "message": "broken on purpose"})
        return
    atexit.register(note_end)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def _echo(path: str, receive: Any, send: Any) -> None:
    await receive()
    if path.startswith("/wait/"):
        await asyncio.sleep(float(path.removeprefix("/wait/")))
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def _reply(send: Any, body: bytes, status: int = 200) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _stream(send: Any, chunks: int) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(chunks):
        await send({"type": "http.response.body", "body": b"chunk\n", "more_body": True})
        await asyncio.sleep(0.1)
    await send({"type": "http.response.body", "body": b"done\n"})


class SmallHost:
    """Logs to stderr; workers are forked, forked from a template, or spawned."""

    def __init__(self, start: str) -> None:
        self._start = start
        self._supervisor = os.getpid()

    def log(self) -> logging.Logger:
        logging.basicConfig(format="%(message)s", level=logging.INFO)
        return logging.getLogger("workers")

    def preload(self, workers: int) -> str | None:
        if mode() == "unfit template" and os.getpid() != self._supervisor:
            return "it is unfit on purpose"
        if self._start == "template" and os.getpid() == self._supervisor:
            return "asked for a template"
        return "asked to spawn" if self._start == "spawn" else None

    def own(self, slot: int) -> None:
        os.environ["OWNED"] = str(slot)

    def for_template(self) -> SmallHost:
        return self


def main() -> None:
    takeover.begin()
    if mode() == "no command":
        sys.exit(7)
    options = json.loads(sys.argv[1])
    supervision = supervised.Supervision(
        Settings(**options["settings"]),
        Recycling(**options["recycling"]),
        keep_helpers=frozenset(options["keep_helpers"]),
        visibility=Visibility(**options["visibility"]),
        watched_config=options["watched_config"],
    )
    arguments = options["uvicorn"]
    if options["limit"] is not None:
        arguments |= uvicorn_server.recycling_arguments(options["limit"], options["jitter"])
    supervised.intercept(Changes(), supervision, SmallHost(options["start"]))
    try:
        uvicorn.run("small_service:app", **arguments)
    finally:
        upgrade.stand_by()


if __name__ == "__main__":
    main()
