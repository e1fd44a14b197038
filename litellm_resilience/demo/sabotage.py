"""Faults on demand inside a proxy worker, as a LiteLLM callback.

A request whose ``user`` field is one of the values below causes the fault in whichever worker gets
the request, before that request is routed; the request itself then goes on as usual. Each fault
writes one line starting with ``demo:`` to standard error.

Older LiteLLM (1.89 for one) loads callbacks only from a file beside the config file, so
`litellm_resilience.demo.proxy.ProxyProcess` copies this file there. It must therefore not import
anything from this package.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

CLOSE_SHARED_SESSION = "demo:close-shared-session"
"""Close LiteLLM's shared aiohttp session."""

CLEAR_CLIENT_CACHE = "demo:clear-client-cache"
"""Empty LiteLLM's cache of provider clients at once, without closing them (``flush_cache``)."""

EVICT_CLIENTS = "demo:evict-clients"
"""Remove every entry of that cache the way LiteLLM does when an entry expires."""


def _report(message: str) -> None:
    print(f"demo: {message} in pid {os.getpid()}", file=sys.stderr, flush=True)


async def close_shared_session() -> None:
    """Close the shared session of this process, if there is an open one."""
    proxy_server = sys.modules.get("litellm.proxy.proxy_server")
    session = getattr(proxy_server, "shared_aiohttp_session", None)
    if session is None:
        _report("no shared session")
    elif session.closed:
        _report(f"shared session already closed (ID: {id(session)})")
    else:
        await session.close()
        _report(f"closed shared session (ID: {id(session)})")


def clear_client_cache() -> None:
    """Empty LiteLLM's client cache of this process."""
    cache = importlib.import_module("litellm").in_memory_llm_clients_cache
    count = len(cache.cache_dict)
    cache.flush_cache()
    _report(f"cleared client cache ({count} entries)")


def evict_clients() -> None:
    """Evict every entry of LiteLLM's client cache of this process."""
    cache = importlib.import_module("litellm").in_memory_llm_clients_cache
    keys = list(cache.cache_dict)
    for key in keys:
        cache._remove_key(key)
    _report(f"evicted clients ({len(keys)} entries)")


async def cause(fault: object) -> None:
    """Cause the fault named by one of the constants; ignore anything else."""
    if fault == CLOSE_SHARED_SESSION:
        await close_shared_session()
    elif fault == CLEAR_CLIENT_CACHE:
        clear_client_cache()
    elif fault == EVICT_CLIENTS:
        evict_clients()


def make_handler() -> Any:
    """A LiteLLM ``CustomLogger`` that causes the fault a request asks for.

    Raises:
        ImportError: LiteLLM is not installed.
    """
    base: Any = importlib.import_module("litellm.integrations.custom_logger").CustomLogger

    class SabotageHandler(base):  # type: ignore[misc]
        async def async_pre_call_hook(
            self,
            user_api_key_dict: Any,  # noqa: ARG002
            cache: Any,  # noqa: ARG002
            data: dict[str, Any],
            call_type: str,  # noqa: ARG002
        ) -> None:
            await cause(data.get("user"))

    return SabotageHandler()


def __getattr__(name: str) -> Any:
    # Made when LiteLLM asks for it, so that others can import the constants without LiteLLM.
    if name == "handler":
        return make_handler()
    raise AttributeError(name)
