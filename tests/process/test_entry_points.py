"""Every way to get the patches into the processes that serve."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from litellm_resilience.demo.load import KeepAliveClient
from litellm_resilience.demo.proxy import RESILIENT, chat
from tests.support import sabotage
from tests.support.proxy import PLAIN, ProxyProcess

StartProxy = Callable[..., ProxyProcess]
MODELS = ("demo-openai", "demo-vllm")

HOOK = {"LITELLM_WORKER_STARTUP_HOOKS": "litellm_resilience:install"}


def heals(proxy: ProxyProcess, workers: int = 1) -> None:
    """Close the shared session of each worker and check that each gets a new one."""

    async def close_everywhere() -> None:
        for _ in range(40 * workers):
            async with KeepAliveClient(
                proxy.host, proxy.port, headers=proxy.headers, timeout=20.0
            ) as client:
                request = chat(MODELS[0], user=sabotage.CLOSE_SHARED_SESSION)
                reply = await client.request("POST", "/v1/chat/completions", request)
                assert reply.status == 200
            log = proxy.log_text()
            closed_in = {line.split()[-1] for line in log.splitlines() if is_closing(line)}
            if len(closed_in) >= workers:
                break
        assert len(closed_in) >= workers

    def is_closing(line: str) -> bool:
        return line.startswith("demo: closed shared session")

    asyncio.run(close_everywhere())
    log = proxy.log_text()
    assert log.count("SESSION REUSE: Recreated") == log.count("demo: closed shared session")
    assert "never awaited" not in log


@pytest.fixture(autouse=True)
def _needs_session(has_shared_session: bool) -> None:
    if not has_shared_session:
        pytest.skip("this LiteLLM has no shared session")


@pytest.mark.parametrize(
    ("options", "workers"),
    [((), 2), (("--run_gunicorn",), 2)],
    ids=["uvicorn", "gunicorn"],
)
def test_the_command_patches_every_worker(
    start_proxy: StartProxy, options: tuple[str, ...], workers: int
) -> None:
    heals(start_proxy(*options, argv=RESILIENT, workers=workers), workers)


def test_plain_litellm_with_a_start_up_hook(start_proxy: StartProxy) -> None:
    found = importlib.util.find_spec("litellm")
    assert found is not None
    assert found.origin is not None
    source = (Path(found.origin).parent / "proxy" / "proxy_server.py").read_text(encoding="utf-8")
    if "LITELLM_WORKER_STARTUP_HOOKS" not in source:
        pytest.skip("this LiteLLM has no start-up hooks")
    proxy = start_proxy(argv=PLAIN, environment=HOOK)
    heals(proxy)


def test_the_application_in_any_asgi_server(start_proxy: StartProxy, tmp_path: Any) -> None:
    """The import string for `uvicorn`; the options that LiteLLM's command would take go unused."""
    script = tmp_path / "serve.py"
    script.write_text(
        "import os, sys, uvicorn\n"
        "arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))\n"
        "os.environ['CONFIG_FILE_PATH'] = arguments['--config']\n"
        "uvicorn.run('litellm_resilience.asgi:app', host=arguments['--host'],"
        " port=int(arguments['--port']))\n"
    )
    heals(start_proxy(argv=(sys.executable, str(script))))


def test_plain_litellm_stays_dead(start_proxy: StartProxy) -> None:
    """The fault is there without the repair, on the versions that have it."""
    proxy = start_proxy(argv=PLAIN)

    async def close_and_ask() -> int:
        async with KeepAliveClient(
            proxy.host, proxy.port, headers=proxy.headers, timeout=20.0
        ) as client:
            for user in (sabotage.CLOSE_SHARED_SESSION, "somebody"):
                await client.request("POST", "/v1/chat/completions", chat(MODELS[0], user=user))
        return proxy.log_text().count("recreating")

    recreated = asyncio.run(close_and_ask())
    from importlib.metadata import version

    old = tuple(int(part) for part in version("litellm").split(".")[:3]) < (1, 82, 5)
    assert recreated == (0 if old else 1)


def test_the_application_under_granian(start_proxy: StartProxy) -> None:
    """LiteLLM's own `--run_granian`, whose workers are spawned too."""
    pytest.importorskip("granian")
    heals(start_proxy("--run_granian"))
