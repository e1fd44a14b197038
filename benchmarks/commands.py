"""What benchmarks start as proxies, and the options that say so."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.setups import ENTRIES, ROOT
from litellm_resilience.demo.proxy import RESILIENT, default_config
from tests.support.provider import ProviderProcess
from tests.support.proxy import PLAIN, ProxyProcess

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

MODEL = "demo-openai"
SCRIPT = Path(sys.executable).with_name("litellm")
"""LiteLLM's own command, of this interpreter."""


def command(side: str, entry: str = ENTRIES[0]) -> Sequence[str]:
    """The command of one side, in this interpreter.

    A spawned worker imports the script that its parent runs, before it answers the parent's health
    check: on a slow or busy machine newer uvicorn kills workers over that, again and again. The
    function instead of the script spares them.

    Args:
        side: one of `SIDES`.
        entry: one of `ENTRIES`.
    """
    plain = [str(SCRIPT)] if entry == ENTRIES[0] else PLAIN
    return plain if side == "plain" else RESILIENT


def checkout_environment() -> dict[str, str]:
    """What makes an interpreter import this checkout, and nothing from the network."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


@contextlib.contextmanager
def started(
    command: Sequence[str],
    options: Sequence[str],
    *,
    providers: Sequence[str] = ("openai",),
    env: Mapping[str, str] | None = None,
    **settings: float,
) -> Iterator[tuple[ProxyProcess, ProviderProcess]]:
    """A proxy, not yet waited for, and the provider behind it.

    Args:
        command: of the proxy.
        options: of the command.
        providers: LiteLLM's names of providers, see `default_config`.
        env: further environment variables.
        settings: of the provider.
    """
    with ProviderProcess(**settings) as provider:
        config = default_config(provider.base_url, providers)
        variables = {**checkout_environment(), **(env or {})}
        with ProxyProcess(command, config, options, env=variables) as proxy:
            yield proxy, provider


def add_number(parser: argparse.ArgumentParser, name: str, default: float, about: str = "") -> None:
    """Declare an option for a number, a whole one if its default is.

    Args:
        parser: to declare it on.
        name: of the option.
        default: its default, which the help names.
        about: what it is.
    """
    text = f"{about} (default: {default:g})" if about else f"default: {default:g}"
    parser.add_argument(name, type=type(default), default=default, help=text)


def add_limit(parser: argparse.ArgumentParser, limit: int, jitter: int) -> None:
    """Declare the options that say when each worker is recycled, with their defaults."""
    add_number(parser, "--limit", limit, "requests per worker")
    text = f"and so many more at most (default: {jitter})"
    parser.add_argument("--jitter", type=int, default=jitter, help=text)
