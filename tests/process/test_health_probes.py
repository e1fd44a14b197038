"""What health checks of a real proxy cost its deployments while workers are replaced."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from typing import Any

from litellm_resilience.demo.provider import ProviderThread
from litellm_resilience.demo.proxy import RESILIENT, default_config
from tests.support.proxy import ProxyProcess

PROVIDERS = ("openai", "hosted_vllm", "deepseek")
WORKERS = 2
REPLACED_TWICE = 2
SECONDS = 120.0


def health(proxy: ProxyProcess) -> dict[str, Any]:
    """Ask one of the workers, on a connection of its own, for what it knows."""
    request = urllib.request.Request(f"{proxy.base_url}/health", headers=proxy.headers)
    with urllib.request.urlopen(request, timeout=10) as reply:
        answer: dict[str, Any] = json.load(reply)
    return answer


def all_know(proxy: ProxyProcess) -> bool:
    return all(health(proxy).get("healthy_count") == len(PROVIDERS) for _ in range(8))


def test_replacements_know_the_health_of_deployments_without_a_probe(
    provider: ProviderThread,
) -> None:
    """Two workers, both replaced twice: each deployment is asked once."""
    config = default_config(provider.base_url, PROVIDERS)
    config["general_settings"] = {"background_health_checks": True, "health_check_interval": 3600}
    options = ("--num_workers", str(WORKERS))
    with ProxyProcess(RESILIENT, config, options) as proxy:
        before = set(proxy.wait_workers(WORKERS, SECONDS))
        proxy.wait_for(lambda: all_know(proxy), SECONDS, "health of each deployment")
        assert provider.stats().generations == len(PROVIDERS)
        for _ in range(REPLACED_TWICE):
            os.kill(proxy.pid, signal.SIGHUP)

            def replaced(old: frozenset[int] = frozenset(before)) -> set[int] | None:
                serving = set(proxy.workers())
                return serving if len(serving) == WORKERS and not serving & old else None

            before = proxy.wait_for(replaced, SECONDS, "replacement of all workers")
            proxy.wait_for(lambda: all_know(proxy), SECONDS, "health of each deployment")
        assert provider.stats().generations == len(PROVIDERS)
