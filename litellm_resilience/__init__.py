"""Worker recycling and a self-healing shared session for an installed LiteLLM proxy.

Importing this package has no side effect: nothing is patched, and LiteLLM is not imported,
before `install` is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from litellm_resilience.repairs.registry import Report
    from litellm_resilience.session.keeper import Counters

__version__ = "0.2.0"

__all__ = ["__version__", "install", "stats", "uninstall"]


def install() -> Report:
    """Apply every patch that this LiteLLM needs, in this process.

    Idempotent. Imports `litellm.proxy.proxy_server`, which takes seconds the first time. Patches
    named in `LITELLM_RESILIENCE_DISABLE` (comma-separated) are left out. Usable as it is in
    LiteLLM's `LITELLM_WORKER_STARTUP_HOOKS=litellm_resilience:install`.

    Returns:
        What became of each patch: applied, native, not needed, incompatible or disabled.

    Raises:
        ImportError: if LiteLLM's proxy cannot be imported. A patch that does not fit the LiteLLM
            it finds never raises: it is skipped with one warning.
    """
    from litellm_resilience.repairs import registry

    return registry.install()


def uninstall() -> None:
    """Put back everything that `install` replaced. Idempotent."""
    from litellm_resilience.repairs import registry

    registry.uninstall()


def stats() -> Counters:
    """Return what the shared session of this process has been through.

    Returns:
        Counts since `install`; all zero if the shared session is not patched.
    """
    from litellm_resilience.repairs import registry

    return registry.counters()
