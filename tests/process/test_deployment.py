"""What the Dockerfile installs, run with what the Deployment says, as a plain process."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import shutil
import string
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from deployment import (
    KUBERNETES,
    PROJECT,
    Stage,
    container,
    dockerfile,
    image_reference,
    pod,
    read_yaml,
    variables,
    yaml,
)

from litellm_resilience.demo.load import KeepAliveClient
from litellm_resilience.demo.proxy import chat, free_port
from tests.support.proxy import ProxyProcess
from tests.support.watch import Scraper

if TYPE_CHECKING:
    from collections.abc import Iterator

    from litellm_resilience.demo.provider import ProviderThread

READY_SECONDS = 120.0
OURS = {"--config", "--port"}
"""What ProxyProcess puts on the command line itself: a plain process has a path and a port of its
own."""


def build(stage: Stage, root: Path) -> None:
    """Do what a stage of the Dockerfile does, below a folder instead of the file system's root."""
    arguments = {name: f"{root}{path}" for name, path in stage.assignments("ARG").items()}
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name, argument in stage.steps:
        if name == "COPY":
            *sources, target = argument.split()
            for source in sources:
                copy(PROJECT / source, root / target.lstrip("/"))
        elif name == "RUN":
            command = argument.replace("/opt/", f"{root}/opt/")
            environment = {**os.environ, **arguments, "PATH": binaries}
            subprocess.run(["/bin/sh", "-c", command], env=environment, check=True, timeout=200)


def copy(source: Path, target: Path) -> None:
    """Copy as COPY does: what is in a folder, or a file into a folder."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def environment(stage: Stage, root: Path, upstream: str, key: str) -> dict[str, str]:
    """Return what a container would have in its environment, with paths and ports of our own."""
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    image = {
        name: string.Template(value.replace("/opt/", f"{root}/opt/")).substitute(PATH=binaries)
        for name, value in stage.assignments("ENV").items()
    }
    secret = {"LITELLM_MASTER_KEY": key, "OPENAI_API_KEY": "sk-fake", "OPENAI_BASE_URL": upstream}
    return {
        **image,
        **variables(container()),
        "LITELLM_RESILIENCE_METRICS_PORT": str(free_port()),
        **secret,
    }


def options() -> list[str]:
    """Return the Deployment's arguments without those that ProxyProcess gives."""
    arguments: list[str] = container()["args"]
    pairs = zip(arguments[::2], arguments[1::2], strict=True)
    return [word for name, value in pairs if name not in OURS for word in (name, value)]


def command(stage: Stage) -> list[str]:
    """Return the image's command without its init, which only a first process needs."""
    init, dashes, *words = stage.command("ENTRYPOINT")
    assert (init, dashes) == ("tini", "--")
    return words


@pytest.fixture
def deployed(provider: ProviderThread, tmp_path: Path) -> Iterator[ProxyProcess]:
    stages = dockerfile()
    image = stages[""]
    if not image_reference().endswith(f":{version('litellm')}"):
        pytest.skip("the image has another LiteLLM")
    build(stages["package"], tmp_path)
    config = yaml.safe_load(read_yaml(KUBERNETES / "configmap.yaml")["data"]["config.yaml"])
    key = "sk-of-the-secret-0123456789abcdef"
    proxy = ProxyProcess(
        command(image),
        config,
        options(),
        env=environment(image, tmp_path, provider.base_url, key),
    )
    proxy.master_key = key
    with proxy:
        yield proxy


def status(host: str, port: int, path: str) -> int:
    """Return the status of a reply to a probe: unauthorised, on a connection of its own."""
    connection = http.client.HTTPConnection(host, port, timeout=20)
    with contextlib.closing(connection) as probe:
        probe.request("GET", path)
        return probe.getresponse().status


async def ask(proxy: ProxyProcess, headers: dict[str, str]) -> int:
    model: str = proxy.config["model_list"][0]["model_name"]
    async with KeepAliveClient(proxy.host, proxy.port, headers=headers, timeout=20.0) as client:
        reply = await client.request("POST", "/v1/chat/completions", chat(model))
        return reply.status


def test_the_container_serves_answers_its_probes_and_stops_in_time(deployed: ProxyProcess) -> None:
    this: dict[str, Any] = container()
    with subprocess.Popen(this["lifecycle"]["preStop"]["exec"]["command"]) as pre_stop:
        deployed.wait_workers(2, READY_SECONDS)
        metrics = deployed.wait_for_log(r"Metrics at (\S+)", READY_SECONDS)[1]
        port = urlsplit(metrics).port or 0
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert this[probe]["httpGet"]["port"] == "metrics"
            assert status(deployed.host, port, this[probe]["httpGet"]["path"]) == 200
        assert asyncio.run(ask(deployed, deployed.headers)) == 200
        assert asyncio.run(ask(deployed, {})) != 200, "the master key is not in force"
        with Scraper(metrics) as scraper:
            answered = "litellm_resilience_requests_total"
            deployed.wait_for(lambda: scraper.total(answered) >= 2, READY_SECONDS, answered)
    assert pre_stop.returncode == 0

    before = time.monotonic()
    assert deployed.stop(timeout=pod()["terminationGracePeriodSeconds"]) == 0
    assert deployed.killed == []
    assert time.monotonic() - before < pod()["terminationGracePeriodSeconds"]
