"""A finaliser cannot crash the worker.

Up to Python 3.11 the garbage collector runs inside allocations, those of `ContextVar.set` among
them. A finaliser that sets a context variable too frees the mapping that the outer call is still
copying, and the process ends with SIGSEGV (https://github.com/python/cpython/issues/148891).
LiteLLM 1.98 and later have such a finaliser, `CustomStreamWrapper.__del__`: clients that hang up
mid-stream leave their streams to the collector.

So the mapping in use when a collection starts is kept until the thread has moved on.
"""

from __future__ import annotations

import contextvars
import gc
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from litellm_resilience.repairs.base import Outcome, PatchState

if TYPE_CHECKING:
    from litellm_resilience.repairs.base import Context

COLLECTS_BETWEEN_INSTRUCTIONS = (3, 12)
"""The first Python that never runs the collector inside a call in C."""

MOST_COLLECTIONS_IN_A_CALL = 64
"""More than one `ContextVar.set` can trigger: it allocates fewer objects."""


class _Held(threading.local):
    """What a thread keeps.

    Attributes:
        place: where the thread was when the collector started last: frame and instruction.
        contexts: copies of its context since it came there; a copy shares the mapping.
    """

    def __init__(self) -> None:
        self.place: tuple[int, int] | None = None
        self.contexts: deque[contextvars.Context] = deque(maxlen=MOST_COLLECTIONS_IN_A_CALL)


_held = _Held()


def apply(context: Context) -> Outcome:
    """Keep the context's mapping through each collection."""
    if sys.version_info >= COLLECTS_BETWEEN_INSTRUCTIONS:
        return Outcome(PatchState.NOT_NEEDED, "this Python collects garbage between instructions")
    gc.callbacks.append(hold_context)
    context.changes.done(lambda: gc.callbacks.remove(hold_context))
    return Outcome(
        PatchState.APPLIED, "finalisers cannot free context variables that are being set"
    )


def hold_context(phase: str, _: dict[str, Any]) -> None:
    """Keep the mapping of the thread's context, when a collection starts.

    A function for `gc.callbacks`. What was kept before is dropped if the thread has moved on since.

    Args:
        phase: ``start`` or ``stop``.
    """
    if phase != "start":
        return
    current = contextvars.copy_context()
    place = _place_of_the_collection()
    if place != _held.place:
        _held.place = place
        _held.contexts.clear()
    _held.contexts.append(current)


def _place_of_the_collection() -> tuple[int, int] | None:
    try:
        frame = sys._getframe(2)
    except ValueError:
        return None
    return id(frame), frame.f_lasti
