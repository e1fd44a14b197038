"""A wall clock that is stepped: everything that is timed goes by the monotonic one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.faulted import Deployment, StartDeployment

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
DAY = 86_400
HANG_SECONDS = 20
"""LiteLLM's own jobs go by the wall clock: all are due at once after the step."""


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that says by how many seconds the proxy's wall clock is off."""
    if FAKETIME is None:
        pytest.skip("no libfaketime")
    path = tmp_path_factory.mktemp("clock") / "offset"
    path.write_text("+0")
    return path


@pytest.fixture(scope="module")
def shared(clock: Path, start_deployment: StartDeployment) -> Deployment:
    return start_deployment(
        "--worker_hang_timeout",
        str(HANG_SECONDS),
        env={
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        },
    )


def step_to(clock: Path, seconds: int) -> None:
    clock.write_text(f"{seconds:+d}")


@pytest.mark.lengthy
async def test_a_step_replaces_no_worker_and_costs_no_request(
    deployment: Deployment, clock: Path
) -> None:
    first = await deployment.well()
    async with deployment.traffic() as traffic:
        for step in (DAY, -DAY, 0):
            step_to(clock, step)
            await traffic.goes_on(200)
            assert await deployment.well() == first, deployment.log()[-3000:]
            ages = [worker["age"] for worker in deployment.status()["workers"]]
            assert all(0 <= age < 3600 for age in ages)
        step_to(clock, -DAY)
        await deployment.roll()
        await traffic.goes_on()
    assert traffic.failed == []
