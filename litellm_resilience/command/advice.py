"""What the doctor advises, beyond patches and the database."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FRONT_SECONDS = 60
"""How long load balancers commonly keep a connection without a request."""
UVICORN_SECONDS = 5
GUNICORN_SECONDS = 2
"""What servers keep, unless they are told: uvicorn; gunicorn, which LiteLLM never tells."""


def of(given: Mapping[str, Any], settings: Mapping[str, Any], *, knows_http2: bool) -> list[str]:
    """Return what to consider, a sentence or two each.

    Args:
        given: the values of the command's options.
        settings: `litellm_settings` of LiteLLM's config file.
        knows_http2: whether this LiteLLM can be told to use HTTP/2.
    """
    return [*_keep_alive(given), *(_http2(settings) if knows_http2 else [])]


def _keep_alive(given: Mapping[str, Any]) -> Iterator[str]:
    if given["run_gunicorn"]:
        yield (
            f"gunicorn closes a connection after {GUNICORN_SECONDS} s without a request, and "
            "LiteLLM cannot tell it otherwise. Let the load balancer in front keep connections "
            "for less, or serve with uvicorn and --keepalive_timeout."
        )
    if any(given[server] for server in ("run_gunicorn", "run_hypercorn", "run_granian")):
        return
    seconds = given["keepalive_timeout"]
    kept = UVICORN_SECONDS if seconds is None else seconds
    if kept <= FRONT_SECONDS:
        yield (
            f"A connection is closed after {kept} s without a request. Load balancers commonly "
            f"keep theirs for {FRONT_SECONDS} s, and then some requests meet a closed one: set "
            f"--keepalive_timeout {FRONT_SECONDS + 5}, or more than yours keeps them."
        )


def _http2(settings: Mapping[str, Any]) -> Iterator[str]:
    wanted = os.environ.get("LITELLM_HTTP2", "").strip().lower() == "true"
    if settings.get("http2") is True or wanted:
        yield (
            "With http2, LiteLLM calls providers with httpx: not over the shared aiohttp session, "
            "so its repairs and metrics have nothing to do with those calls."
        )
