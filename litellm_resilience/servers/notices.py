"""What the command warns about, in LiteLLM's own log."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging
    from collections.abc import Collection

NO_LIMIT = "--max_requests_jitter has no effect without --max_requests_before_restart."


def log() -> logging.Logger:
    """Return the log of LiteLLM's proxy."""
    found: logging.Logger = importlib.import_module("litellm._logging").verbose_proxy_logger
    return found


def warn(message: str) -> None:
    """Log a warning the way LiteLLM's proxy logs, JSON included."""
    log().warning("litellm-resilience: %s", message)


def warn_of_ineffective(how: str, given: Collection[str]) -> None:
    """Say which options have no effect, if any was given.

    Args:
        how: the way of serving that ignores them.
        given: their names.
    """
    if given:
        options = ", ".join(f"--{name}" for name in sorted(given))
        warn(f"No effect with {how}: {options}.")


def warn_of_unsupported(server: str, jitter: int | None, given: Collection[str]) -> None:
    """Say which options a server without a request limit ignores, if any was given.

    Args:
        server: its name.
        jitter: of `--max_requests_jitter`, if it was given.
        given: the names of the other options that somebody has set.
    """
    ignored = [*given, *([] if jitter is None else ["max_requests_jitter"])]
    warn_of_ineffective(server, ignored)
