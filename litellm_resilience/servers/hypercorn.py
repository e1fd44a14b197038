"""hypercorn: the repairs, applied before it serves in the command's own process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litellm_resilience.repairs.registry import install
from litellm_resilience.servers import inheritance, notices

if TYPE_CHECKING:
    from litellm_resilience.repairs.base import Changes
    from litellm_resilience.servers.supervised import Supervision


def intercept(changes: Changes, jitter: int | None, supervision: Supervision) -> None:
    """Prepare what LiteLLM starts with hypercorn from now on."""
    import hypercorn.asyncio

    original = hypercorn.asyncio.serve

    def serve(*args: Any, **kwargs: Any) -> Any:
        supervision.imports_done()
        inheritance.stop()
        install()
        notices.warn_of_unsupported("hypercorn", jitter, supervision.given)
        return original(*args, **kwargs)

    changes.replace(hypercorn.asyncio, "serve", serve)
