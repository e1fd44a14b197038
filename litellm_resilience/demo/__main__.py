"""``python -m litellm_resilience.demo``: the resilient proxy under load, watched from outside."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import shlex
import signal
import sys
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

from litellm_resilience.demo.act import STARTUP_SECONDS, Act, ShownProxy
from litellm_resilience.demo.console import Console
from litellm_resilience.demo.provider import ProviderThread
from litellm_resilience.demo.proxy import RESILIENT, Proxy, ProxyError
from litellm_resilience.demo.summary import table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from litellm_resilience.demo.summary import Summary

PROVIDER_DELAY = 0.05
OURS, PLAIN = "litellm-resilient", "litellm"
PLAIN_COMMAND = "from litellm.proxy.proxy_cli import run_server; run_server()"
"""LiteLLM's own command, as its script starts it."""
OUR_JITTER, LITELLM_JITTER = "--max_requests_jitter", "--max_requests_before_restart_jitter"
FIRST_WITH_JITTER = (1, 90)
"""The first LiteLLM line with a jitter of its own."""
PATIENCE = 30.0
"""After so many seconds of a start something is said of it, again and again."""
TRIAL_SECONDS = 2
"""The roll tries a new worker for so long; 30 s, as by default, would be longer than the load."""


def _whole_number(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text) if re.fullmatch(r"[+-]?\d+", text) else minimum - 1
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {minimum} up")
        return value

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m litellm_resilience.demo",
        description="Start a fake provider and a LiteLLM proxy whose workers are recycled often. "
        "Send steady requests over keep-alive connections, without retries. On the way, close the "
        "shared session, kill a worker with SIGKILL, and replace all workers with SIGHUP. Count "
        "what clients and a batch sink received. The exit code is 1 if anything was lost, or if no "
        "worker was recycled. Needs Linux.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--seconds", type=_whole_number(1), default=20, help="length of the load")
    add("--num_workers", type=_whole_number(1), default=2, help="workers of the proxy")
    add(
        "--max_requests_before_restart",
        type=_whole_number(1),
        default=25,
        help="requests after which a worker is recycled",
    )
    add(
        "--max_requests_jitter",
        type=_whole_number(0),
        default=10,
        help="upper limit of the random number added to that for each worker; plain litellm has "
        "it too, from 1.90 on",
    )
    add("--clients", type=_whole_number(1), default=6, help="keep-alive connections")
    add("--compare", action="store_true", help="do the same to plain litellm first")
    add("--json", action="store_true", help="print the figures as JSON; lines go to stderr")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration.

    Args:
        argv: command-line arguments; None for those of the process.

    Returns:
        0; 1 if anything was lost, if no worker was recycled, or if the proxy never served; 130 if
        interrupted before the load.

    Raises:
        SystemExit: with status 2 for bad arguments.
    """
    args = _parser().parse_args(argv)
    console = Console(sys.stderr if args.json else sys.stdout)
    commands = {OURS: RESILIENT}
    if args.compare:
        commands = {PLAIN: (sys.executable, "-c", PLAIN_COMMAND), **commands}
    found: dict[str, Summary] = {}
    try:
        for name, command in commands.items():
            found[name] = _show(name, command, args, console)
    except (ProxyError, OSError) as error:
        console.end_progress()
        print(f"the proxy did not come up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        console.end_progress()
        return 128 + signal.SIGINT
    console.end_progress()
    if args.json:
        print(json.dumps({name: each.as_json() for name, each in found.items()}, indent=2))
    else:
        print(f"\n{table(found)}\n")
        for name, summary in found.items():
            print(summary.verdict(name))
    return 0 if found[OURS].good else 1


def _show(name: str, command: Sequence[str], args: argparse.Namespace, console: Console) -> Summary:
    options = _options(name, args)
    with (
        ProviderThread(delay=PROVIDER_DELAY) as provider,
        ShownProxy(command, options, provider) as proxy,
    ):
        console.message(f"$ {shlex.join([name, *options])}")
        console.message("importing LiteLLM takes 8 to 20 s")
        _wait_until_up(proxy, args.num_workers, console)
        return asyncio.run(Act(args, provider, proxy, console, ours=name == OURS).run())


def _options(name: str, args: argparse.Namespace) -> list[str]:
    options = ["--num_workers", str(args.num_workers)]
    options += ["--max_requests_before_restart", str(args.max_requests_before_restart)]
    jitter = OUR_JITTER if name == OURS else _jitter_of_litellm()
    if args.max_requests_jitter and jitter:
        options += [jitter, str(args.max_requests_jitter)]
    if name == OURS:
        options += ["--reload_trial", str(TRIAL_SECONDS)]
    return options


def _jitter_of_litellm() -> str:
    """LiteLLM's own option for a jitter, if the installed one has it."""
    numbers = tuple(map(int, re.findall(r"\d+", version("litellm"))[:2]))
    return LITELLM_JITTER if numbers >= FIRST_WITH_JITTER else ""


def _wait_until_up(proxy: Proxy, workers: int, console: Console) -> None:
    started = time.monotonic()
    said = 0.0

    def enough() -> list[int] | None:
        nonlocal said
        waited = time.monotonic() - started
        serving = proxy.workers()
        if len(serving) >= workers:
            return serving
        if waited >= said + PATIENCE:
            said = waited
            console.message(
                f"{len(serving)} of {workers} serve after {waited:.0f} s: a busy machine takes long"
            )
        return None

    pids = proxy.wait_for(enough, STARTUP_SECONDS, f"{workers} serving workers")
    proxy.wait_ready(STARTUP_SECONDS)
    serve = "worker serves" if len(pids) == 1 else "workers serve"
    console.message(
        f"{len(pids)} {serve} after {time.monotonic() - started:.0f} s; the load begins"
    )


def _end(signum: int, _frame: object) -> None:
    sys.exit(128 + signum)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
