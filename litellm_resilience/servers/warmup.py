"""Loads before the fork what a worker's first request would load.

The first request of each worker otherwise takes up to two seconds, in which its event loop serves
nobody else: LiteLLM imports more of itself, and newer FastAPI prepares included routers when they
are first asked for a route. Measured by comparing `sys.modules` before and after it, and with a
profiler; a name that the installed LiteLLM does not have is skipped.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

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


DATABASE_MODULES = (
    "prisma.client",
    "prisma",
    "apscheduler.triggers.cron",
    "litellm.proxy._experimental.mcp_server.discoverable_endpoints",
    "litellm.proxy.db.baseline_accounting",
    "litellm.proxy.management_endpoints.mcp_management_endpoints",
    "litellm.proxy.spend_tracking.cloudzero_endpoints",
    "litellm.proxy.spend_tracking.vantage_endpoints",
)
"""What a worker with a database loads when it starts: 6 to 8 s with the prisma of LiteLLM 1.81, and
0.2 s, half of what the start takes of a core, with LiteLLM 1.106."""
DATABASE_VARIABLE = "DATABASE_URL"
"""Set by LiteLLM's command, wherever the address is configured."""


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
    large = LARGE_MODULES if workers > 1 else ()
    database = DATABASE_MODULES if DATABASE_VARIABLE in os.environ else ()
    for name in (*MODULES, *large, *database):
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def load_modules(names: Iterable[str]) -> list[str]:
    """Import what the operator has named.

    Args:
        names: of modules.

    Returns:
        What could not be imported, and why.
    """
    return [problem for problem in map(_import_problem, names) if problem]


def _import_problem(name: str) -> str | None:
    try:
        importlib.import_module(name)
    except Exception as error:
        return f"--preload_modules: {name}: {type(error).__name__}: {error}"
    return None


def _find_route(application: Any) -> None:
    """Ask for a route as the router does, which stops at the first that matches."""
    full = importlib.import_module("starlette.routing").Match.FULL
    for route in application.router.routes:
        match, _ = route.matches(dict(REQUEST))
        if match is full:
            return
