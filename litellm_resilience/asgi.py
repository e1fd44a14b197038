"""The patched proxy as an import string for any ASGI server: `litellm_resilience.asgi:app`."""

from __future__ import annotations

from typing import Any

from litellm_resilience.servers.application import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:
    if name == "app":
        return create_app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
