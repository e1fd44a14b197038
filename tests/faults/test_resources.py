"""An operating system that refuses: processes, file descriptors, disk space."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest

from litellm_resilience.demo.proxy import RESILIENT
from tests.support.faulted import LIVE, Deployment, StartDeployment, alive, descriptors, until

IDENTITY = ("setpriv", "--reuid=65534", "--clear-groups")
UNPRIVILEGED = (*IDENTITY, "--inh-caps=+dac_override", "--ambient-caps=+dac_override")
"""Root is exempt from the limit of processes; nobody may not read root's files without that."""
PRLIMIT = (*IDENTITY, "prlimit") if os.geteuid() == 0 else ("prlimit",)
NAMES = {"nproc": "Max processes", "nofile": "Max open files", "fsize": "Max file size"}


@pytest.fixture(scope="module")
def shared(start_deployment: StartDeployment) -> Deployment:
    missing = [tool for tool in ("setpriv", "prlimit") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)}")
    return start_deployment(argv=(*UNPRIVILEGED, *RESILIENT) if os.geteuid() == 0 else RESILIENT)


@contextmanager
def limited(pids: list[int], kind: str, most: int) -> Iterator[None]:
    """Lower a limit of processes that run, for a while."""
    before = {pid: soft_limit(pid, kind) for pid in pids}
    for pid in pids:
        set_limit(pid, kind, str(most))
    try:
        yield
    finally:
        for pid, soft in before.items():
            if alive(pid):
                set_limit(pid, kind, soft)


def soft_limit(pid: int, kind: str) -> str:
    (line,) = (
        line
        for line in Path(f"/proc/{pid}/limits").read_text().splitlines()
        if line.startswith(NAMES[kind])
    )
    return line.removeprefix(NAMES[kind]).split()[0]


def set_limit(pid: int, kind: str, soft: str) -> None:
    subprocess.run([*PRLIMIT, f"--pid={pid}", f"--{kind}={soft}:"], check=True)


async def test_a_refused_fork_keeps_the_old_workers_serving(deployment: Deployment) -> None:
    first = set(await deployment.well())
    async with deployment.traffic() as traffic:
        with limited([deployment.proxy.pid], "nproc", 0):
            deployment.signal(signal.SIGHUP)
            await deployment.logs("Resource temporarily unavailable", times=2)
            await traffic.goes_on()
            assert set(deployment.pids("serving", "retiring")) == first
        await until(lambda: not first & set(deployment.pids()), "end of the former workers")
        await deployment.well()
        await traffic.goes_on()
    assert traffic.failed == []


async def test_a_worker_that_dies_while_forks_are_refused_is_replaced_later(
    deployment: Deployment,
) -> None:
    victim, other = await deployment.well()
    client = await deployment.connect_to(other)
    with limited([deployment.proxy.pid], "nproc", 0):
        os.kill(victim, signal.SIGKILL)
        await deployment.logs("Resource temporarily unavailable")
        assert (await deployment.ask(client)).status == 200
    await client.close()
    assert victim not in await deployment.well()


async def test_a_supervisor_out_of_descriptors_starts_workers_when_it_has_some(
    deployment: Deployment,
) -> None:
    first = set(await deployment.well())
    supervisor = deployment.proxy.pid
    async with deployment.traffic() as traffic:
        with limited([supervisor], "nofile", descriptors(supervisor)):
            deployment.signal(signal.SIGHUP)
            await deployment.logs("Too many open files")
            await traffic.goes_on()
            assert first <= set(deployment.proxy.workers())
        await until(lambda: not first & set(deployment.pids()), "end of the former workers")
        await traffic.goes_on()
    assert traffic.failed == []


async def test_workers_out_of_descriptors_keep_their_connections_and_recover(
    deployment: Deployment,
) -> None:
    """More clients than descriptors: those connected are served; uvloop turns the others away."""
    workers = await deployment.well()
    most = max(descriptors(pid) for pid in workers) + 20
    async with AsyncExitStack() as closing:
        served = await closing.enter_async_context(deployment.client())
        assert (await deployment.ask(served)).status == 200
        async with AsyncExitStack() as idle:
            with limited(workers, "nofile", most):
                for _ in range(100):
                    client = await idle.enter_async_context(deployment.client())
                    await client._connection()
                await until(
                    lambda: any(descriptors(pid) >= most - 1 for pid in workers), "a full table"
                )
                for _ in range(20):
                    assert (await deployment.ask(served)).status == 200
                await idle.aclose()
                await until(
                    lambda: all(descriptors(pid) < most - 10 for pid in workers), "closed ones"
                )
                async with deployment.client() as late:
                    assert (await late.request("GET", LIVE)).status == 200
    assert await deployment.well() == workers
    assert "died" not in deployment.log()


async def test_a_log_that_cannot_be_written_costs_no_request_and_no_roll(
    deployment: Deployment,
) -> None:
    """No file may grow any more, as on a full disk; the log is one."""
    first = set(await deployment.well())
    log = deployment.proxy.log_path
    async with deployment.traffic() as traffic:
        with limited(deployment.proxy.processes(), "fsize", log.stat().st_size):
            full = log.stat().st_size
            deployment.signal(signal.SIGHUP)
            await until(lambda: not first & set(deployment.pids()), "end of the former workers")
            second = await deployment.well()
            await traffic.goes_on()
            assert log.stat().st_size == full
            for worker in second:
                set_limit(worker, "fsize", "unlimited")
        await deployment.roll()
        await traffic.goes_on()
    assert traffic.failed == []
    assert " ready after " in deployment.log()
