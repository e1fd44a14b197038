"""granian: the patched application, imported by each of its workers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from litellm_resilience.servers import application, inheritance, notices

if TYPE_CHECKING:
    from litellm_resilience.repairs.base import Changes
    from litellm_resilience.servers.supervised import Supervision


def intercept(changes: Changes, jitter: int | None, supervision: Supervision) -> None:
    """Prepare what LiteLLM starts with granian from now on."""
    import granian

    original = granian.Granian

    def patched(*args: Any, **kwargs: Any) -> Any:
        supervision.imports_done()
        inheritance.stop()
        notices.warn_of_unsupported("granian", jitter, supervision.given)
        os.environ[application.TARGET_VARIABLE] = kwargs["target"]
        return original(*args, **(kwargs | {"target": "litellm_resilience.asgi:app"}))

    changes.replace(granian, "Granian", patched)
