"""LiteLLM's real lifespan: start-up makes the session, shut-down closes the last one for good."""

from __future__ import annotations

import asyncio
import gc
import logging
from types import SimpleNamespace
from typing import Any

import pytest

import litellm_resilience
from litellm_resilience.session.keeper import SessionKeeper


async def attach(modules: SimpleNamespace) -> Any:
    data: dict[str, Any] = {}
    await modules.route.add_shared_session_to_data(data)
    return data.get("shared_session")


@pytest.fixture(autouse=True)
def _strong_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_MASTER_KEY", "sk-f2c1b0d4e6a85b97c3d1e2f4a6b8c0d2")


async def test_nothing_is_recreated_after_the_lifespan_and_nothing_stays_open(
    shared: SimpleNamespace, keeper: SessionKeeper, caplog: pytest.LogCaptureFixture
) -> None:
    app = shared.server.app
    with caplog.at_level(logging.ERROR, logger="asyncio"):
        async with app.router.lifespan_context(app):
            first = await attach(shared)
            assert first is shared.server.shared_aiohttp_session
            await first.close()
            second = await attach(shared)
            assert second is not first
        assert second.closed
        assert await attach(shared) is None
        assert litellm_resilience.stats().recreated == 1
        del first, second
        gc.collect()
        await asyncio.sleep(0)
    assert "Unclosed" not in caplog.text


async def test_a_second_lifespan_in_the_same_process_heals_again(shared: SimpleNamespace) -> None:
    app = shared.server.app
    for _ in range(2):
        async with app.router.lifespan_context(app):
            await (await attach(shared)).close()
            assert not (await attach(shared)).closed


async def test_an_install_inside_the_lifespan_is_told_of_its_end(
    litellm_modules: SimpleNamespace,
) -> None:
    """`LITELLM_WORKER_STARTUP_HOOKS` runs when the lifespan has already begun."""
    if not hasattr(litellm_modules.route, "add_shared_session_to_data"):
        pytest.skip("this LiteLLM has no shared session")
    litellm_resilience.uninstall()
    app = litellm_modules.server.app
    try:
        async with app.router.lifespan_context(app):
            litellm_resilience.install()
            await (await attach(litellm_modules)).close()
            last = await attach(litellm_modules)
            assert not last.closed
        assert last.closed
        assert await attach(litellm_modules) is None
    finally:
        litellm_resilience.uninstall()
