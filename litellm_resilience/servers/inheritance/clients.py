"""Clients that LiteLLM has cached before the fork."""

from __future__ import annotations

import importlib
import re
from typing import Any

_WITH_LOOP = re.compile(r"-\d{6,}$")
"""LiteLLM's key of an asynchronous client ends with its event loop's address
(litellm/caching/llm_caching_handler.py); a loop of a worker may be at the same one."""


def forget_those_of_ended_loops() -> None:
    """Leave no client to a worker that belongs to an event loop of the process before the fork."""
    cache: Any = importlib.import_module("litellm").in_memory_llm_clients_cache
    for key in [key for key in cache.cache_dict if _WITH_LOOP.search(str(key))]:
        del cache.cache_dict[key]
        cache.ttl_dict.pop(key, None)
