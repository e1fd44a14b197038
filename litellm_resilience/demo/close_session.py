"""Closes the shared session of a worker on demand, as a LiteLLM callback.

A request whose ``user`` field is `CLOSE_SHARED_SESSION` closes the session of whichever worker gets
it, before it is routed; the request itself then goes on as usual. Says so in one line on standard
error. The proxy loads a copy of this file, which must import nothing of this package.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

CLOSE_SHARED_SESSION = "demo:close-shared-session"


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


def make_handler() -> Any:
    """A LiteLLM ``CustomLogger`` that closes the session when a request asks for it.

    Raises:
        ImportError: LiteLLM is not installed.
    """
    base: Any = importlib.import_module("litellm.integrations.custom_logger").CustomLogger

    class CloseSessionHandler(base):  # type: ignore[misc]
        async def async_pre_call_hook(
            self,
            user_api_key_dict: Any,  # noqa: ARG002
            cache: Any,  # noqa: ARG002
            data: dict[str, Any],
            call_type: str,  # noqa: ARG002
        ) -> None:
            if data.get("user") == CLOSE_SHARED_SESSION:
                await close_shared_session()

    return CloseSessionHandler()


def __getattr__(name: str) -> Any:
    # Made when LiteLLM asks for it, so that others can import the constant without LiteLLM.
    if name == "handler":
        return make_handler()
    raise AttributeError(name)
