"""LiteLLM's own metrics process (`--prometheus_metrics_port`) through an upgrade in place."""

from __future__ import annotations

import importlib.util
import os
import signal
import urllib.request
from collections.abc import Callable

import pytest

from litellm_resilience.demo.proxy import chat, free_port
from litellm_resilience.servers.companions import THEIRS, is_free
from tests.support.proxy import ProxyProcess

pytestmark = pytest.mark.any_line
SECONDS = 150.0
COUNTER = "litellm_requests_metric_total"


def answer(port: int) -> tuple[int, str]:
    """Return which process answers a scrape, and its page; 0 if none does."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
            return int(reply.headers["x-litellm-metrics-pid"]), reply.read().decode()
    except OSError:
        return 0, ""


@pytest.mark.skipif(
    importlib.util.find_spec("litellm") is None or importlib.util.find_spec(THEIRS) is None,
    reason="this LiteLLM serves its metrics from no process of their own",
)
def test_its_port_passes_to_the_new_proxy(start_proxy: Callable[..., ProxyProcess]) -> None:
    pytest.importorskip("prometheus_client")
    port = free_port()
    proxy = start_proxy(
        *("--prometheus_metrics_port", str(port)),
        workers=2,
        settings={"callbacks": ["prometheus"]},
    )

    def counted() -> int:
        """The process that shows a request, which is sent first."""
        proxy.fetch("/v1/chat/completions", chat("demo-openai"))
        pid, page = answer(port)
        return pid if COUNTER in page else 0

    old = proxy.wait_for(counted, SECONDS, "metrics of the old proxy")
    os.kill(proxy.pid, signal.SIGUSR2)
    new = proxy.wait_for(
        lambda: (pid := counted()) != old and pid, SECONDS, "metrics of the new proxy"
    )
    assert new
    assert "The upgrade has failed" not in proxy.log_text()
    proxy.stop(SECONDS)
    assert is_free("127.0.0.1", port)
