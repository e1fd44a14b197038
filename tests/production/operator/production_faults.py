"""A callback of the proxy under test: breaks a start once the database is connected."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy.proxy_server import ProxyStartupEvent

FOLDER = Path(__file__).parent
FAULT = FOLDER / "fault"
"""``raise`` or ``hang``; no file: nothing."""

usual = ProxyStartupEvent.initialize_scheduled_background_jobs


async def broken(*arguments: Any, **named: Any) -> Any:
    """Do what is asked for, where LiteLLM starts its jobs: it has connected by then."""
    fault = FAULT.read_text() if FAULT.exists() else ""
    if fault:
        print(f"production: {fault} after connecting", flush=True)
    if fault == "raise":
        raise RuntimeError("broken on purpose")
    while fault == "hang":
        time.sleep(3600)  # noqa: ASYNC251 - the event loop is to stand still
    return await usual(*arguments, **named)


if getattr(usual, "__name__", "") != "broken":
    ProxyStartupEvent.initialize_scheduled_background_jobs = broken
handler = CustomLogger()
