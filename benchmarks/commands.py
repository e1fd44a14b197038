"""What benchmarks start as proxies, and the options that say so."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.setups import ENTRIES, ROOT
from litellm_resilience.demo.proxy import default_config
from tests.support.provider import ProviderProcess
from tests.support.proxy import PLAIN, ProxyProcess

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping, Sequence

MODEL = "demo-openai"


def of_interpreter(python: str | Path, entry: str = ENTRIES[0]) -> dict[str, list[str]]:
    """The commands of LiteLLM and of this package, by side, in an interpreter's environment.

    A spawned worker imports the script that its parent runs, before it answers the parent's health
    check: on a slow or busy machine newer uvicorn kills workers over that, again and again. The
    function instead of the script spares them.

    Args:
        python: the interpreter.
        entry: one of `ENTRIES`.
    """
    script = [str(Path(python).with_name("litellm"))]
    return {
        "plain": script if entry == ENTRIES[0] else [str(python), *PLAIN[1:]],
        "resilient": [str(python), "-m", "litellm_resilience"],
    }


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


def positive(kind: type[float]) -> Callable[[str], float]:
    """Return a parser of positive numbers for argparse."""

    def parse(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError(text)
        return value

    parse.__name__ = f"positive {kind.__name__}"
    return parse


def add_number(parser: argparse.ArgumentParser, name: str, default: float, about: str = "") -> None:
    """Declare an option for a positive number, a whole one if its default is.

    Args:
        parser: to declare it on.
        name: of the option.
        default: its default, which the help names.
        about: what it is.
    """
    text = f"{about} (default: {default:g})" if about else f"default: {default:g}"
    parser.add_argument(name, type=positive(type(default)), default=default, help=text)


def add_limit(parser: argparse.ArgumentParser, limit: int = 300, jitter: int = 0) -> None:
    """Declare the options that say when each worker is recycled, with their defaults."""
    add_number(parser, "--limit", limit, "requests per worker")
    text = f"and so many more at most (default: {jitter})"
    parser.add_argument("--jitter", type=int, default=jitter, help=text)


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Declare the options that choose the command of each side."""
    plain, resilient = (" ".join(each) for each in of_interpreter(sys.executable).values())
    parser.add_argument("--plain_command", default=plain, help=f"default: {plain}")
    text = f"default: {resilient}; the same command on both sides shows the noise"
    parser.add_argument("--resilient_command", default=resilient, help=text)
