"""Versions of what is installed, without importing it."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata

from litellm_resilience import __version__

DISTRIBUTIONS = ("litellm", "uvicorn", "gunicorn", "aiohttp")


@cache
def installed(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def report() -> dict[str, str | None]:
    """Return the versions of this package, what it patches, and Python, by name."""
    return {
        "litellm-resilience": __version__,
        **{name: installed(name) for name in DISTRIBUTIONS},
        "python": platform.python_version(),
    }
