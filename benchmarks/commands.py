"""The commands that benchmarks start as proxies."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report import positive

if TYPE_CHECKING:
    import argparse

STARTUP_SECONDS = 180.0
MODEL = "demo-openai"


def add_recycling(parser: argparse.ArgumentParser) -> None:
    """Declare the options that say how many workers there are and when each is recycled."""
    add = parser.add_argument
    add("--workers", type=positive(int), default=2, help="default: 2")
    add("--limit", type=positive(int), default=300, help="requests per worker (default: 300)")
    add("--jitter", type=int, default=0, help="and so many more at most (default: 0)")


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Declare the options that choose the command of each side."""
    plain = str(Path(sys.executable).with_name("litellm"))
    resilient = f"{sys.executable} -m litellm_resilience"
    parser.add_argument("--plain_command", default=plain, help=f"default: {plain}")
    parser.add_argument(
        "--resilient_command",
        default=resilient,
        help=f"default: {resilient}; the same command on both sides shows the noise",
    )
