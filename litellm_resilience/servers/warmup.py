"""Loads before the fork what a worker's first request would load.

The first request of each worker otherwise takes up to two seconds, in which its event loop serves
nobody else: LiteLLM imports more of itself, and newer FastAPI prepares included routers when they
are first asked for a route. Measured by comparing `sys.modules` before and after it, and with a
profiler; a name that the installed LiteLLM does not have is skipped.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

MODULES = (
    "anyio._backends._asyncio",
    "openai.resources.chat",
    "litellm.integrations.shadow_eval_logger",
    "litellm.litellm_core_utils.logging_worker",
    "litellm.llms.anthropic.chat.guardrail_translation.handler",
    "litellm.llms.openai.chat.guardrail_translation.handler",
    "litellm.llms.vertex_ai.common_utils",
    "litellm.proxy._experimental.mcp_server.auth.user_api_key_auth_mcp",
    "litellm.proxy._experimental.mcp_server.mcp_server_manager",
    "litellm.proxy.hooks.mcp_semantic_filter",
    "litellm.proxy.mcp_server.auth.user_api_key_auth_mcp",
    "litellm.proxy.mcp_server.mcp_server_manager",
    "litellm.proxy.pass_through_endpoints.llm_passthrough_endpoints",
    "litellm_enterprise.proxy.auth.route_checks",
)


LARGE_MODULES = ("litellm.litellm_core_utils.default_encoding",)
"""35 MB that a single worker may never need, and that several workers had better share."""


REQUEST = {
    "type": "http",
    "method": "POST",
    "path": "/v1/chat/completions",
    "root_path": "",
    "query_string": b"",
    "headers": [],
}


def warm_up(application: Any, workers: int) -> None:
    """Do it; what fails here would fail again, and be reported, where it is needed.

    Args:
        application: LiteLLM's FastAPI application.
        workers: how many workers will share what is loaded.
    """
    with contextlib.suppress(Exception):
        _find_route(application)
    for name in MODULES + (LARGE_MODULES if workers > 1 else ()):
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _find_route(application: Any) -> None:
    """Ask for a route as the router does, which stops at the first that matches."""
    full = importlib.import_module("starlette.routing").Match.FULL
    for route in application.router.routes:
        match, _ = route.matches(dict(REQUEST))
        if match is full:
            return
