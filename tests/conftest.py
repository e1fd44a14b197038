"""What all tests wait with, and where they find the benchmarks."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

# The benchmarks and tests/support are not installed. pytest puts the checkout, where they are, at
# the front of the path. At its end, the package that is tested is the installed one.
ROOT = str(Path(__file__).parents[1])
sys.path.remove(ROOT)
sys.path.append(ROOT)

Until = Callable[[Callable[[], bool]], Awaitable[None]]


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
