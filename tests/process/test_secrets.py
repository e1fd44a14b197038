"""Secrets that a proxy is given appear in nothing that this package says or starts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from litellm_resilience.demo.proxy import free_port
from tests.support.proxy import ProxyProcess

PLANTED = "planted-secret"
SECRETS = {
    name: f"{PLANTED}-{number}"
    for number, name in enumerate(
        (
            "OPENAI_API_KEY",
            "ANTHROPIC_API_KEY",
            "AWS_SECRET_ACCESS_KEY",
            "LITELLM_SALT_KEY",
            "REDIS_PASSWORD",
            "LANGFUSE_SECRET_KEY",
            "UI_PASSWORD",
        )
    )
}
FOR_COMMANDS = {
    **SECRETS,
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "DATABASE_URL": f"postgresql://user:{PLANTED}@127.0.0.1/litellm",
    "LITELLM_MASTER_KEY": f"sk-{PLANTED}",
}
"""With these a proxy would look for a database, and have another key."""
PLAN = (
    *("--plan", "--max_requests_before_restart", "9", "--rps", "1"),
    *("--boot_seconds", "1", "--json"),
)
OURS = re.compile(
    r"litellm.resilience|SESSION REUSE|[Ww]orker \d+ \(pid|Supervising|Status for|Metrics at"
    r"|SIGHUP|Killing|All workers",
)
"""What this package's lines in the log look like."""


def ask(*arguments: str, **environment: str) -> str:
    """Return everything that a command of ours prints."""
    result = subprocess.run(
        [sys.executable, "-m", "litellm_resilience", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={
            **os.environ,
            **SECRETS,
            **FOR_COMMANDS,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            **environment,
        },
    )
    assert "Traceback" not in result.stderr, result.stderr
    return result.stdout + result.stderr


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def page(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=20) as reply:
            text: str = reply.read().decode()
            return text
    except OSError:
        return ""


@pytest.mark.any_line
def test_no_secret_is_told(start_proxy: Callable[..., ProxyProcess]) -> None:
    """The environment, the config and a start-up that fails on a reload: one proxy for all."""
    pytest.importorskip("prometheus_client")
    proxy = start_proxy(
        *("--resilience_metrics_port", str(free_port()), "--max_requests_before_restart", "5"),
        workers=2,
        environment=SECRETS,
        settings={"callbacks": ["prometheus"]},
    )
    secrets = [PLANTED, proxy.master_key, "sk-fake"]
    status_socket = proxy.wait_for_log(r"--status at (\S+)", 60)[1]
    metrics_page = proxy.wait_for_log(r"Metrics at (\S+)", 60)[1]
    told = {
        name: ask(*arguments)
        for name, arguments in {
            "status": ("--status", "--status_socket", status_socket),
            "status, JSON": ("--status", "--status_socket", status_socket, "--json"),
            "doctor": ("--doctor",),
            "doctor, JSON": ("--doctor", "--json"),
            "plan": PLAN,
            "bad input": ("--worker_hang_timeout", "never"),
        }.items()
    }
    told["bad environment"] = ask("--config", "x", MAX_REQUESTS_JITTER="x")
    assert json.loads(told["status, JSON"])["workers"]
    told["metrics"] = proxy.wait_for(lambda: page(metrics_page), 60, "metrics")
    assert "litellm_resilience_workers" in told["metrics"]
    told["command lines"] = "\n".join(map(command_line, proxy.processes()))
    assert "config.yaml" in told["command lines"]

    broken: dict[str, Any] = {
        **proxy.config,
        "litellm_settings": {"callbacks": [f"no_such_module_{PLANTED}.handler"]},
    }
    (proxy.directory / "config.yaml").write_text(json.dumps(broken))
    os.kill(proxy.pid, signal.SIGHUP)
    proxy.wait_for_log(r"[Ww]orker \d+ \(pid \d+\) could not start", 120)
    told["status of a start that fails"] = ask("--status", "--status_socket", status_socket)
    # LiteLLM's own error names the folder, which is named after this package.
    log = proxy.log_text().replace(str(proxy.directory), "folder")
    lines = [line for line in log.splitlines() if OURS.search(line)]
    assert len(lines) > 5
    told["our lines in the log"] = "\n".join(lines)
    for name, text in told.items():
        assert text, name
        found = [secret for secret in secrets if secret in text]
        assert not found, f"{name}: {text}"
