"""What the command answers without importing LiteLLM."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from litellm_resilience import __version__

FORBID_LITELLM = """
import sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name == "litellm" or name.startswith("litellm."):
            raise AssertionError("LiteLLM was imported")
sys.meta_path.insert(0, Forbid())
from litellm_resilience.command.entry import main
main()
"""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process in which importing LiteLLM is an error."""
    return subprocess.run(
        [sys.executable, "-c", FORBID_LITELLM, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def test_version_names_all_three() -> None:
    result = run("--version", RESILIENCE_METRICS_PORT="tcp://10.0.0.1:80")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == f"litellm-resilience {__version__}"
    assert [line.split()[0] for line in lines[1:]] == ["litellm", "uvicorn"]


@pytest.mark.parametrize("value", ["-1", "1.5", "many", ""])
@pytest.mark.parametrize("spelling", ["--max_requests_jitter", "--max-requests-jitter"])
def test_a_bad_jitter_is_a_usage_error(spelling: str, value: str) -> None:
    result = run("--config", "config.yaml", spelling, value, "--port", "4000")
    assert result.returncode == 2
    assert "max_requests_jitter" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_bad_jitter_in_the_environment_is_a_usage_error() -> None:
    result = run("--config", "config.yaml", MAX_REQUESTS_JITTER="-5")
    assert result.returncode == 2
    assert "max_requests_jitter" in result.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--max_restarting_workers", "0"),
        ("--max_worker_memory_mb", "0"),
        ("--max_worker_memory_mb", "1.5"),
        ("--max_worker_lifetime", "0"),
        ("--max_worker_lifetime", "nan"),
        ("--max-worker-lifetime", "inf"),
        ("--worker_limit_jitter", "1"),
        ("--worker_limit_jitter", "-0.1"),
        ("--min_worker_lifetime", "-1"),
        ("--worker_boot_timeout", "0"),
        ("--worker_drain_timeout", "0"),
        ("--worker-drain-timeout", "soon"),
        ("--worker_hang_timeout", "0.5"),
        ("--resilience_metrics_port", "0"),
        ("--resilience-metrics-port", "65536"),
        ("--resilience_metrics_port", "http"),
        ("--status_socket", "/does/not/exist/s"),
        ("--status_socket", f"/{'long' * 30}"),
    ],
)
def test_a_bad_value_is_a_usage_error(option: str, value: str) -> None:
    result = run("--config", "config.yaml", option, value)
    assert result.returncode == 2
    assert option.strip("-").replace("-", "_") in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_patch_to_disable_is_a_usage_error() -> None:
    result = run("--config", "config.yaml", LITELLM_RESILIENCE_DISABLE="stream-release,typo")
    assert result.returncode == 2
    assert "typo" in result.stderr
    assert "session-ownership" in result.stderr


def test_json_goes_with_doctor() -> None:
    assert run("--json").returncode == 2


def test_the_module_is_the_command() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "litellm_resilience", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert __version__ in result.stdout


def test_json_and_watch_go_with_what_they_print() -> None:
    for arguments in (["--json"], ["--watch"], ["--doctor", "--watch"]):
        result = run(*arguments)
        assert result.returncode == 2
        assert "with --" in result.stderr


@pytest.mark.skipif(os.name != "posix", reason="no Unix sockets here")
def test_status_without_a_supervisor_is_an_error(tmp_path: Path) -> None:
    result = run("--status", TMPDIR=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr == "No status: no supervisor of this user runs here.\n"
    assert run("--status", "--status_socket", str(tmp_path / "s")).returncode == 1


def test_a_metrics_port_needs_the_library() -> None:
    if importlib.util.find_spec("prometheus_client") is not None:
        pytest.skip("it is installed")
    result = run("--resilience_metrics_port", "9464")
    assert result.returncode == 2
    assert "pip install prometheus-client" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (["--doctor", "--status"], {}, "exclude each other"),
        (["--config", "x", "--worker_hang_timeout", "nan"], {}, "worker_hang_timeout"),
        (["--config", "x"], {"WORKER_LIMIT_JITTER": "1"}, "worker_limit_jitter"),
        (["--config", "x"], {"NO_PRELOAD": "maybe"}, "no_preload"),
        (["--config", "x"], {"LITELLM_RESILIENCE_DISABLE": "x"}, "unknown patches"),
    ],
)
def test_bad_input_ends_the_real_process_with_a_message(
    arguments: list[str], environment: dict[str, str], named: str
) -> None:
    result = run(*arguments, **environment)
    assert (result.returncode, result.stdout) == (2, "")
    assert named in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
