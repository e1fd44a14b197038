"""A PROMETHEUS_MULTIPROC_DIR without space: metrics are incomplete, requests are not."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faulted import Deployment, StartDeployment

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("prometheus_client") is None, reason="no prometheus_client"
)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 2 MB."""
    path = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(path)]
    with contextlib.suppress(OSError):
        if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
            yield path
            subprocess.run(["umount", str(path)], check=True)
            return
    pytest.skip("may not mount a file system")


@pytest.fixture(scope="module")
def shared(disk: Path, start_deployment: StartDeployment) -> Iterator[Deployment]:
    deployment = start_deployment(
        env={"PROMETHEUS_MULTIPROC_DIR": str(disk)},
        config={"litellm_settings": {"callbacks": ["prometheus"]}},
    )
    yield deployment
    deployment.proxy.stop()


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "filling").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


async def test_a_full_disk_costs_no_request_and_no_worker(
    deployment: Deployment, disk: Path
) -> None:
    """The files are mapped: without reserved space the kernel ends who writes, with SIGBUS."""
    first = await deployment.well()
    fill(disk)
    async with deployment.traffic() as traffic:
        await traffic.goes_on(50)
        assert await deployment.well() == first
        await deployment.roll()
        await traffic.goes_on(50)
        (disk / "filling").unlink()
        await deployment.roll()
        await traffic.goes_on(50)
    assert traffic.failed == []
    assert "SIGBUS" not in deployment.log()
    assert "No space for metrics in PROMETHEUS_MULTIPROC_DIR" in deployment.log()
