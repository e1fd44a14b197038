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

from benchmarks.commands import MODEL, add_number
from benchmarks.report import Comparison, Machine, Outcome, compared, order
from benchmarks.setups import SIDES
from litellm_resilience import install, uninstall
from litellm_resilience.demo.proxy import chat, default_config
from tests.support.provider import ProviderProcess

if TYPE_CHECKING:
    import argparse

GOAL = 1.01
URL = "http://127.0.0.1/v1/chat/completions"
MASTER_KEY = "sk-benchmark-of-litellm-resilience"
WARMUP_REQUESTS = 100
SETTLING_REQUESTS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_number(parser, "--rounds", 100, "rounds per side")
    add_number(parser, "--requests", 20, "requests per round")
    parser.add_argument("--stream", action="store_true", help="ask for streamed replies")


def run(args: argparse.Namespace) -> Outcome:
    """Measure; imports LiteLLM's proxy into this process."""
    machine = Machine.here()
    cpu = Comparison("CPU time per request", "µs", goal=GOAL)
    elapsed = Comparison("elapsed time per request", "µs")
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    with contextlib.ExitStack() as stack:
        provider = stack.enter_context(ProviderProcess(delay=0.0, chunk_interval=0.0))
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        config = default_config(provider.base_url, ["openai"])
        config["general_settings"] = {"master_key": MASTER_KEY}
        path = Path(directory) / "config.yaml"
        path.write_text(json.dumps(config))
        os.environ["CONFIG_FILE_PATH"] = str(path)
        # What LiteLLM prints while it starts must not mix with the result.
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        print("importing LiteLLM...", file=sys.stderr)
        app = importlib.import_module("litellm.proxy.proxy_server").app
        logging.disable(logging.WARNING)
        stack.callback(logging.disable, logging.NOTSET)
        asyncio.run(_measure(app, args, cpu, elapsed))
    kind = "Streamed chat completions" if args.stream else "Chat completions"
    conditions = (
        f"{kind} through ASGI, one at a time, a provider that answers at once; medians of "
        f"{args.rounds} alternating rounds of {args.requests} requests per side."
    )
    return compared("Time per request", conditions, machine, [cpu, elapsed])


async def _measure(
    app: Any, args: argparse.Namespace, cpu: Comparison, elapsed: Comparison
) -> None:
    httpx: Any = importlib.import_module("httpx")
    transport = httpx.ASGITransport(app)
    request = httpx.Request(
        "POST",
        URL,
        headers={"Authorization": f"Bearer {MASTER_KEY}"},
        json=chat(MODEL, stream=args.stream),
    )

    async def send(count: int) -> None:
        for _ in range(count):
            reply = await transport.handle_async_request(request)
            if reply.status_code != HTTPStatus.OK:
                raise SystemExit(f"the request failed: {(await reply.aread()).decode()}")

    async with app.router.lifespan_context(app):
        for side in SIDES:
            _switch(side)
            await send(WARMUP_REQUESTS)
        # The modules' objects, so that they are not traversed in one side's rounds or the other's.
        gc.collect()
        gc.freeze()
        for number in range(args.rounds):
            for side in order(number):
                _switch(side)
                await send(SETTLING_REQUESTS)
                gc.collect(0)
                spent, started = time.process_time_ns(), time.perf_counter_ns()
                await send(args.requests)
                spent, took = time.process_time_ns() - spent, time.perf_counter_ns() - started
                cpu.rounds[side].append(spent / args.requests / 1000)
                elapsed.rounds[side].append(took / args.requests / 1000)
        uninstall()


def _switch(side: str) -> None:
    # The same work for both sides: its garbage and cold caches would burden the one that did it.
    uninstall()
    install()
    if side == "plain":
        uninstall()
