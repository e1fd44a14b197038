"""The installed LiteLLM, imported once, with the patches in force."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import pytest

import litellm_resilience
from litellm_resilience.demo.provider import ProviderThread
from litellm_resilience.repairs import registry
from litellm_resilience.repairs.base import first_name
from litellm_resilience.repairs.lifecycle import INITIALISERS
from litellm_resilience.session.keeper import SessionKeeper


@pytest.fixture(scope="session")
def litellm_modules() -> SimpleNamespace:
    """The modules that are patched."""
    from litellm.llms.custom_httpx import aiohttp_transport, http_handler
    from litellm.proxy import proxy_server, route_llm_request

    return SimpleNamespace(
        server=proxy_server,
        route=route_llm_request,
        transport=aiohttp_transport,
        handler=http_handler,
    )


@pytest.fixture
def patched(litellm_modules: SimpleNamespace) -> Iterator[SimpleNamespace]:
    """The same modules with all patches applied, and a fresh global session slot."""
    litellm_resilience.uninstall()
    before = getattr(litellm_modules.server, "shared_aiohttp_session", None)
    litellm_resilience.install()
    yield litellm_modules
    litellm_resilience.uninstall()
    if hasattr(litellm_modules.server, "shared_aiohttp_session"):
        litellm_modules.server.shared_aiohttp_session = before


@pytest.fixture
def shared(patched: SimpleNamespace) -> SimpleNamespace:
    """The patched modules of a LiteLLM that has a shared session."""
    if not hasattr(patched.route, "add_shared_session_to_data"):
        pytest.skip("this LiteLLM has no shared session")
    return patched


@pytest.fixture
def keeper(shared: SimpleNamespace) -> SessionKeeper:
    assert registry._active is not None
    assert registry._active.keeper is not None
    return registry._active.keeper


@pytest.fixture
def initialiser_name(shared: SimpleNamespace) -> str:
    """The initialiser that this LiteLLM calls."""
    return first_name(shared.server, *INITIALISERS)


@pytest.fixture
async def session(shared: SimpleNamespace, initialiser_name: str, keeper: SessionKeeper) -> Any:
    """The shared session, made as the lifespan makes it, and all sessions closed afterwards."""
    session = await getattr(shared.server, initialiser_name)()
    shared.server.shared_aiohttp_session = session
    yield session
    await keeper.aclose()


@pytest.fixture(scope="session")
def provider() -> Iterator[ProviderThread]:
    """A real TCP upstream."""
    with ProviderThread() as running:
        yield running


@pytest.fixture(scope="session")
def native_is_synchronous(litellm_modules: SimpleNamespace) -> bool:
    """Whether this LiteLLM's own `add_shared_session_to_data` is called without await."""
    import inspect

    litellm_resilience.uninstall()
    native = getattr(litellm_modules.route, "add_shared_session_to_data", None)
    return native is not None and not inspect.iscoroutinefunction(native)
