"""What all tests wait with, and where they find the benchmarks."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

# The benchmarks and tests/support are not installed. pytest puts the checkout, where they are, at
# the front of the path. At its end, the package that is tested is the installed one.
ROOT = str(Path(__file__).parents[1])
sys.path.remove(ROOT)
sys.path.append(ROOT)

Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Replace xdist's own scheduler for `--dist loadgroup`."""
    if config.getvalue("dist") != "loadgroup":
        return None
    from tests.support.scheduling import GroupScheduling

    return GroupScheduling(config, log)


@pytest.fixture
def until() -> Until:
    """Wait for a condition with a deadline."""

    async def wait(condition: Callable[[], bool], seconds: float = 5.0) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not condition():
            assert loop.time() < deadline, "condition not met in time"
            await asyncio.sleep(0.01)

    return wait
