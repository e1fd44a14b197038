"""Replacements that cannot start: those they should replace serve on, until the fault is mended."""

from __future__ import annotations

import os
import signal
import textwrap
from pathlib import Path

import pytest

from tests.support.faulted import Deployment, StartDeployment, until

BOOT_SECONDS = 3
IMPORT_SECONDS = 180.0
"""LiteLLM takes up to 13 s of processor time to import, and the machine has other things to do."""


@pytest.fixture(scope="module")
def shared(start_deployment: StartDeployment) -> Deployment:
    return start_deployment("--worker_boot_timeout", str(BOOT_SECONDS))


@pytest.mark.parametrize(
    ("fault", "effect"),
    [
        ("raise", "could not start: exited with status 3"),
        ("exit", "could not start: exited with status 3"),
        ("hang", f"it was not ready within {BOOT_SECONDS} s"),
    ],
)
async def test_a_replacement_that_fails_while_the_application_starts(
    deployment: Deployment, fault: str, effect: str
) -> None:
    first = set(await deployment.well())
    deployment.startup_fault(fault)
    async with deployment.traffic() as traffic:
        deployment.signal(signal.SIGHUP)
        await deployment.logs(effect)
        await traffic.goes_on()
        assert set(deployment.pids("serving", "retiring")) == first
        deployment.startup_fault("")
        await until(lambda: not first & set(deployment.pids()), "end of the former workers")
        await deployment.well()
        await traffic.goes_on()
    assert traffic.failed == []


@pytest.mark.parametrize("broken", ["model_list: [", "{not: yaml: at: all", None])
async def test_a_configuration_that_is_invalid_when_workers_are_to_read_it(
    deployment: Deployment, broken: str | None
) -> None:
    """SIGHUP after a slip in the file, or when it is gone: the old one stays in force."""
    config = deployment.proxy.directory / "config.yaml"
    good = config.read_text()
    first = set(await deployment.well())
    if broken is None:
        config.unlink()
    else:
        config.write_text(broken)
    try:
        async with deployment.traffic() as traffic:
            deployment.signal(signal.SIGHUP)
            await deployment.logs("could not start: ")
            await traffic.goes_on()
            assert set(deployment.pids("serving", "retiring")) == first
            config.write_text(good)
            await until(lambda: not first & set(deployment.pids()), "end of the former workers")
            await deployment.well()
        assert traffic.failed == []
    finally:
        config.write_text(good)


CRASH = """
    import pathlib, sys

    class Crash:
        def find_spec(self, name, path=None, target=None):
            if name == "litellm.proxy.proxy_server" and pathlib.Path({flag!r}).exists():
                raise RuntimeError("broken on purpose")

    sys.meta_path.insert(0, Crash())
"""


@pytest.mark.lengthy
async def test_a_replacement_that_crashes_while_it_imports(
    start_deployment: StartDeployment, tmp_path: Path
) -> None:
    """Spawned workers import LiteLLM for themselves; forked ones cannot fail so."""
    flag = tmp_path / "crash"
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(CRASH.format(flag=str(flag))))
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    deployment = start_deployment("--no_preload", workers=1, env={"PYTHONPATH": path})
    (first,) = await deployment.well()
    flag.touch()
    async with deployment.traffic() as traffic:
        deployment.signal(signal.SIGHUP)
        await deployment.logs("could not start: ")
        await traffic.goes_on()
        assert deployment.pids("serving", "retiring") == [first]
        flag.unlink()
        await until(
            lambda: first not in deployment.pids(), "end of the former worker", IMPORT_SECONDS
        )
        await traffic.goes_on()
    assert traffic.failed == []
    assert "broken on purpose" in deployment.log()
