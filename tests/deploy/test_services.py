"""The units for systemd and the file for Compose: valid, and their times fit the drain."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from deployment import DEPLOY, container, option, read_yaml, variables

SYSTEMD = DEPLOY / "systemd"
FLUSH_TIMEOUT = STOP_MARGIN = 10
"""Defaults of the command: what a worker may flush, and shut LiteLLM down, after its drain."""
LONGEST_PAUSE = 60
"""What the supervisor waits, at most, before it starts workers again that keep dying."""
SHARED = (
    *("--config", "--port", "--num_workers", "--max_requests_before_restart"),
    *("--max_requests_jitter", "--worker_drain_timeout"),
)


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((SYSTEMD / name).read_text(encoding="utf-8"))
    return parser


def command() -> list[str]:
    return shlex.split(unit("litellm-resilient.service")["Service"]["ExecStart"])


def composed() -> dict[str, Any]:
    (service,) = read_yaml(DEPLOY / "compose.yaml")["services"].values()
    found: dict[str, Any] = service
    return found


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for source in SYSTEMD.iterdir():
        text = source.read_text(encoding="utf-8").replace(command()[0], "/bin/true")
        (tmp_path / source.name).write_text(text, encoding="utf-8")
    units = [str(path) for path in sorted(tmp_path.iterdir())]
    verify = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *units]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_all_ways_to_deploy_start_the_same() -> None:
    for name in SHARED:
        expected = option(name, container()["args"])
        assert option(name, command()) == option(name, composed()["command"]) == expected


def test_what_ends_a_service_waits_for_its_drain() -> None:
    drain = float(option("--worker_drain_timeout", command()))
    service = unit("litellm-resilient.service")["Service"]
    needed = drain + FLUSH_TIMEOUT + STOP_MARGIN
    assert float(service["TimeoutStopSec"]) > needed
    assert float(composed()["stop_grace_period"].removesuffix("s")) > needed
    graceful = f"GRACEFUL_SHUTDOWN_TIMEOUT={drain:g}"
    assert service["Environment"] == graceful
    assert float(composed()["environment"]["GRACEFUL_SHUTDOWN_TIMEOUT"]) == drain


def test_the_watchdog_waits_for_workers_that_start_again() -> None:
    assert float(unit("litellm-resilient.service")["Service"]["WatchdogSec"]) > LONGEST_PAUSE


def test_ports_of_services_meet() -> None:
    assert unit("litellm-resilient.socket")["Socket"]["ListenStream"] == option("--port", command())
    published = [entry.rpartition(":")[2] for entry in composed()["ports"]]
    environment = composed()["environment"]
    assert published == [
        option("--port", composed()["command"]),
        environment["LITELLM_RESILIENCE_METRICS_PORT"],
    ]
    deployed = variables(container())
    assert environment.keys() & deployed.keys() >= {"LITELLM_RESILIENCE_METRICS_PORT"}


def test_what_is_mounted_and_built_is_there() -> None:
    build = composed()["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    mounts = dict(volume.split(":")[:2] for volume in composed()["volumes"])
    assert mounts["./config.yaml"] == option("--config", composed()["command"])
