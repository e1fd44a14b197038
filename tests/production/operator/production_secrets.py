"""A secret manager of the proxy under test, which asks over LiteLLM's cached synchronous client."""

from __future__ import annotations

import os
from typing import Any

from litellm.integrations.custom_secret_manager import CustomSecretManager
from litellm.llms.custom_httpx import http_handler

# Renamed in 1.106.0.
get_client = getattr(http_handler, "get_httpx_client", None) or http_handler._get_httpx_client


class Secrets(CustomSecretManager):  # type: ignore[misc]
    """Reads secrets from `PRODUCTION_SECRETS`; logs in when made, which LiteLLM's command does."""

    def __init__(self) -> None:
        super().__init__(secret_manager_name="production")
        self.sync_read_secret("login")

    def sync_read_secret(
        self, secret_name: str, optional_params: Any = None, timeout: Any = None
    ) -> str | None:
        """Return the secret of this name."""
        address = f"{os.environ['PRODUCTION_SECRETS']}/secret/{secret_name}/{os.getpid()}"
        text: str = get_client().get(address).text
        return text

    async def async_read_secret(
        self, secret_name: str, optional_params: Any = None, timeout: Any = None
    ) -> str | None:
        """Return the secret of this name."""
        return self.sync_read_secret(secret_name)
