"""What LiteLLM imports on the first request, imported before workers are forked.

The first request of each worker otherwise takes up to two seconds, in which its event loop serves
nobody else. Measured by comparing `sys.modules` before and after it; a name that the installed
LiteLLM does not have is skipped.
"""

from __future__ import annotations

import contextlib
import importlib

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


def warm_up(workers: int) -> None:
    """Import them; what fails here would fail again, and be reported, where it is needed.

    Args:
        workers: how many workers will share what is imported.
    """
    for name in MODULES + (LARGE_MODULES if workers > 1 else ()):
        with contextlib.suppress(Exception):
            importlib.import_module(name)
