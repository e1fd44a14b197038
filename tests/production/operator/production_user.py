"""A callback of the proxy under test: starts a thread, connects, asks for a secret when imported.

A request whose ``user`` names one of `ACTIONS` makes it do that, and note the result in `NOTES`.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import litellm
from litellm.integrations.custom_logger import CustomLogger

FOLDER = Path(__file__).parent
NOTES = FOLDER / "notes.jsonl"

host, port = os.environ["PRODUCTION_SINK"].split(":")
connection = http.client.HTTPConnection(host, int(port), timeout=30)
connection.connect()
beats: list[int] = []


def beat() -> None:
    """Beat, for as long as the process lives."""
    while not threading.Event().wait(0.05):
        beats[:] = [time.monotonic_ns()]


thread = threading.Thread(target=beat, name="production-user", daemon=True)
thread.start()


def note(action: str, **facts: Any) -> None:
    """Write a line that says which process did what."""
    line = json.dumps({"action": action, "pid": os.getpid(), **facts}) + "\n"
    with NOTES.open("a") as notes:
        notes.write(line)


def pod_lock() -> Any:
    """Return LiteLLM's lock of leaders."""
    from litellm.proxy.proxy_server import proxy_logging_obj

    return proxy_logging_obj.db_spend_update_writer.pod_lock_manager


async def tell_identity(_: str) -> dict[str, Any]:
    """Use the connection and the thread of this module."""
    beats.clear()
    connection.request("GET", f"/user/{os.getpid()}")
    connection.getresponse().read()
    await asyncio.sleep(0.3)
    own_port = connection.sock.getsockname()[1] if connection.sock else 0
    return {"pod_id": pod_lock().pod_id, "beats": len(beats), "port": own_port}


async def ask_for_lock(name: str) -> dict[str, Any]:
    """Ask to be the leader of the pods."""
    return {"acquired": await pod_lock().acquire_lock(name)}


def own_secret(name: str) -> dict[str, Any]:
    """Ask over LiteLLM's cached client."""
    own = f"{name}-{os.getpid()}"
    return {"name": own, "secret": litellm.secret_manager_client.sync_read_secret(own)}


async def ask_for_secret(name: str) -> dict[str, Any]:
    """Ask without holding up other requests."""
    return await asyncio.to_thread(own_secret, name)


ACTIONS = {"identity": tell_identity, "lock": ask_for_lock, "secret": ask_for_secret}


class UserCallback(CustomLogger):  # type: ignore[misc]
    """Does in a worker what a request asks for."""

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> None:
        """Look at the request's user."""
        action, _, argument = str(data.get("user") or "").partition("=")
        if action in ACTIONS:
            note(action, **await ACTIONS[action](argument))


# Soon after LiteLLM's command has asked: an idle connection is used again for five seconds only.
# And outside of the event loop, as that has: each loop has a client of its own.
with ThreadPoolExecutor(1) as outside:
    note("secret", **outside.submit(own_secret, "boot").result())
handler = UserCallback()
