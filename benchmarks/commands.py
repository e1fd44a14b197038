"""The commands that benchmarks start as proxies."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report import positive
from tests.support.proxy import PLAIN

if TYPE_CHECKING:
    import argparse

ROOT = Path(__file__).parents[1]
"""The checkout."""
STARTUP_SECONDS = 180.0
MODEL = "demo-openai"


ENTRIES = ("script", "function")
"""How plain LiteLLM is started: by its script, or by the function that the script calls."""


def of_interpreter(python: str | Path, entry: str = "script") -> dict[str, list[str]]:
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
        "plain": script if entry == "script" else [str(python), *PLAIN[1:]],
        "resilient": [str(python), "-m", "litellm_resilience"],
    }


def checkout_environment() -> dict[str, str]:
    """What makes an interpreter import this checkout, and nothing from the network."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


def add_recycling(parser: argparse.ArgumentParser, limit: int = 300, jitter: int = 0) -> None:
    """Declare the options that say how many workers there are and when each is recycled.

    Args:
        parser: to declare them on.
        limit: the default for requests per worker.
        jitter: the default for how many more at most.
    """
    add = parser.add_argument
    add("--workers", type=positive(int), default=2, help="default: 2")
    add(
        "--limit",
        type=positive(int),
        default=limit,
        help=f"requests per worker (default: {limit})",
    )
    add("--jitter", type=int, default=jitter, help=f"and so many more at most (default: {jitter})")


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Declare the options that choose the command of each side."""
    plain, resilient = (" ".join(each) for each in of_interpreter(sys.executable).values())
    parser.add_argument("--plain_command", default=plain, help=f"default: {plain}")
    parser.add_argument(
        "--resilient_command",
        default=resilient,
        help=f"default: {resilient}; the same command on both sides shows the noise",
    )
