"""LiteLLM's proxy as an ASGI application with the repairs in force.

Server workers are often spawned, and a repair applied in the parent is not in them: importing the
application through this module applies it in each one.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from litellm_resilience.repairs.registry import install

TARGET_VARIABLE = "_LITELLM_RESILIENCE_TARGET"
DEFAULT_TARGET = "litellm.proxy.proxy_server:app"
FACTORY_MARK = "()"


def create_app() -> Any:
    """Build the application that LiteLLM's command wanted served, patched.

    LiteLLM 1.109.0 serves through a factory of its own, which configures logging before it imports
    the proxy; it runs first, so that its order is kept.

    Returns:
        The ASGI application.

    Raises:
        ImportError: if it cannot be imported.
    """
    target = os.environ.get(TARGET_VARIABLE, DEFAULT_TARGET)
    module, _, attribute = target.removesuffix(FACTORY_MARK).partition(":")
    application = getattr(importlib.import_module(module), attribute)
    if target.endswith(FACTORY_MARK):
        application = application()
    install()
    return application


def __getattr__(name: str) -> Any:
    if name == "app":
        return create_app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
