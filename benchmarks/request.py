"""Time per request of the proxy application, patches off against patches on, in one process.

The application is called through ASGI, one request after another, against a fake provider in a
process of its own; blocks of requests with the patches installed and uninstalled alternate. One
process, one warm cache and blocks of a tenth of a second make this far more exact than
`throughput`, at the price of leaving out the server and concurrency.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import json
import logging
import os
import sys
import tempfile
import time
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report import SIDES, Comparison, Machine, Result, order, positive
from litellm_resilience import install, uninstall
from litellm_resilience.demo.proxy import default_config
from tests.support.provider import ProviderProcess

if TYPE_CHECKING:
    import argparse

GOAL = 1.01
PATH = "/v1/chat/completions"
MASTER_KEY = "sk-benchmark-of-litellm-resilience"
CONFIG_PROVIDER = "openai"
WARMUP_REQUESTS = 100
SETTLING_REQUESTS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--rounds", type=positive(int), default=100, help="rounds per side (default: 100)")
    add("--requests", type=positive(int), default=20, help="requests per round (default: 20)")
    add("--stream", action="store_true", help="ask for streamed replies")


def run(args: argparse.Namespace) -> Result:
    """Measure; imports LiteLLM's proxy into this process."""
    machine = Machine.here()
    kind = "streamed chat completions" if args.stream else "chat completions"
    result = Result(
        title="Time per request",
        conditions=f"{kind.capitalize()} through ASGI, one at a time, a provider that answers at "
        f"once; medians of {args.rounds} alternating rounds of {args.requests} requests per side.",
        machine=machine,
        comparisons=[
            Comparison("CPU time per request", "µs", goal=GOAL),
            Comparison("elapsed time per request", "µs"),
        ],
    )
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    with contextlib.ExitStack() as stack:
        provider = stack.enter_context(ProviderProcess(delay=0.0, chunk_interval=0.0))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        config = default_config(provider.base_url, [CONFIG_PROVIDER])
        config["general_settings"] = {"master_key": MASTER_KEY}
        path = directory / "config.yaml"
        path.write_text(json.dumps(config))
        os.environ["CONFIG_FILE_PATH"] = str(path)
        # What LiteLLM prints while it starts must not mix with the result.
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        print("importing LiteLLM...", file=sys.stderr)
        app = importlib.import_module("litellm.proxy.proxy_server").app
        logging.disable(logging.WARNING)
        stack.callback(logging.disable, logging.NOTSET)
        asyncio.run(_measure(app, args, result))
    return result


async def _measure(app: Any, args: argparse.Namespace, result: Result) -> None:
    body = json.dumps(
        {
            "model": f"demo-{CONFIG_PROVIDER}",
            "messages": [{"role": "user", "content": "Hello"}],
            "stream": args.stream,
        }
    ).encode()
    cpu, elapsed = result.comparisons
    async with app.router.lifespan_context(app):
        for side in SIDES:
            _switch(side)
            for _ in range(WARMUP_REQUESTS):
                await _request(app, body)
        # The modules' objects, so that they are not traversed in one side's rounds or the other's.
        gc.collect()
        gc.freeze()
        for number in range(args.rounds):
            for side in order(number):
                _switch(side)
                for _ in range(SETTLING_REQUESTS):
                    await _request(app, body)
                gc.collect(0)
                spent, started = time.process_time_ns(), time.perf_counter_ns()
                for _ in range(args.requests):
                    await _request(app, body)
                cpu.add(side, (time.process_time_ns() - spent) / args.requests / 1000)
                elapsed.add(side, (time.perf_counter_ns() - started) / args.requests / 1000)
        uninstall()


def _switch(side: str) -> None:
    # The same work for both sides: its garbage and cold caches would burden the one that did it.
    uninstall()
    install()
    if side == "plain":
        uninstall()


async def _request(app: Any, body: bytes) -> None:
    """Have the application answer one request.

    Raises:
        SystemExit: if it answers with an error.
    """
    unread = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[dict[str, Any]] = []
    ended = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if unread:
            return unread.pop()
        await ended.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            ended.set()

    await app(_scope(len(body)), receive, send)
    if not sent or sent[0]["status"] != HTTPStatus.OK or not ended.is_set():
        raise SystemExit(f"the request failed: {sent}")


def _scope(length: int) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": PATH,
        "raw_path": PATH.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"127.0.0.1"),
            (b"content-type", b"application/json"),
            (b"content-length", str(length).encode()),
            (b"authorization", f"Bearer {MASTER_KEY}".encode()),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "state": {},
    }
