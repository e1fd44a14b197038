"""Loads before the fork what a worker's first request would load.

The first request of each worker otherwise takes up to two seconds, in which its event loop serves
nobody else: LiteLLM imports more of itself, newer FastAPI prepares included routers when they
are first asked for a route, and pydantic builds the validators of models that say so when they are
first used. Measured by comparing `sys.modules` before and after it, by noting which models are
rebuilt, and with a profiler; a name that the installed LiteLLM does not have is skipped.
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
    "openai.resources.chat.completions",
    "openai.resources.chat.completions.completions",
    "litellm.integrations.shadow_eval_logger",
    "litellm.litellm_core_utils.get_supported_openai_params",
    "litellm.litellm_core_utils.logging_worker",
    "litellm.llms.anthropic.chat.guardrail_translation.handler",
    "litellm.llms.edenai.chat.transformation",
    "litellm.llms.fal_ai.chat.transformation",
    "litellm.llms.litellm_proxy.chat.transformation",
    "litellm.llms.openai.chat.gpt_audio_transformation",
    "litellm.llms.openai.chat.guardrail_translation.handler",
    "litellm.llms.openai_like.dynamic_config",
    "litellm.llms.openai_like.model_info",
    "litellm.llms.vertex_ai.common_utils",
    "litellm.llms.vertex_ai.vertex_ai_partner_models.anthropic.transformation",
    "litellm.proxy._experimental.mcp_server.auth.user_api_key_auth_mcp",
    "litellm.proxy._experimental.mcp_server.mcp_server_manager",
    "litellm.proxy.admin_mcp",
    "litellm.proxy.guardrails.guardrail_helpers",
    "litellm.proxy.hooks.mcp_semantic_filter",
    "litellm.proxy.mcp_server.auth.user_api_key_auth_mcp",
    "litellm.proxy.mcp_server.mcp_server_manager",
    "litellm.proxy.pass_through_endpoints.llm_passthrough_endpoints",
    "litellm.proxy.policy_engine.init_policies",
    "litellm.sandbox.sandbox_tools",
    "litellm.types.proxy.litellm_pre_call_utils",
    "litellm_enterprise.proxy.auth.route_checks",
)


MODELS = {
    "litellm.llms.openai_like.model_info": "_ModelCard _ModelList",
    "litellm.models.user": "LiteLLM_UserTable",
    "litellm.proxy._types": "ConfigGeneralSettings LiteLLM_JWTAuth UserAPIKeyAuth",
    "litellm.proxy.auth.network": "NetworkContext TrustedProxyConfig",
    "litellm.proxy.auth.resolvers.models": "CredentialRef Principal UserIdentity",
    "litellm.proxy.hooks.batch_enqueued_tokens": "_BatchResponseView",
    "litellm.proxy.hooks.prompt_cache_prediction": "_Event _Logged _Metadata",
    "litellm.types.passthrough_endpoints.vertex_ai": "VertexPassThroughCredentials",
    "litellm.types.router": "CredentialLiteLLMParams Deployment GenericLiteLLMParams "
    "LiteLLM_Params ModelGroupInfo ModelInfo",
    "litellm.types.services": "ServiceLoggerPayload",
    "litellm.types.utils": "Choices CompletionTokensDetailsWrapper Delta Message ModelResponse "
    "ModelResponseStream StreamingChoices Usage",
    "openai.types.chat.chat_completion": "ChatCompletion Choice",
    "openai.types.chat.chat_completion_chunk": "ChatCompletionChunk Choice ChoiceDelta",
    "openai.types.chat.chat_completion_message": "ChatCompletionMessage",
    "openai.types.chat.parsed_chat_completion": "ParsedChatCompletion ParsedChatCompletionMessage "
    "ParsedChoice",
}
"""Models of pydantic, by the module that has them, whose validators a start, a first request and a
first stream build."""


CALLS = {"litellm.llms": "load_guardrail_translation_mappings"}
"""Functions that keep what they have found, by the module that has them."""


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
    for module, names in MODELS.items():
        for name in names.split():
            with contextlib.suppress(Exception):
                getattr(importlib.import_module(module), name).model_rebuild(raise_errors=False)
    for module, name in CALLS.items():
        with contextlib.suppress(Exception):
            getattr(importlib.import_module(module), name)()


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
    """Ask for a route as the router does, which stops at the first that matches.

    FastAPI reads the source of its endpoint, to name the line in errors.
    """
    full = importlib.import_module("starlette.routing").Match.FULL
    for route in application.router.routes:
        match, found = route.matches(dict(REQUEST))
        if match is full:
            routing = importlib.import_module("fastapi.routing")
            routing._extract_endpoint_context(found["endpoint"])
            return
