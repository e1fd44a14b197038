"""Whether something happens because a module is being imported.

What an import does, a worker that is spawned does as well; the rest is the command's own work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


def importing(frame: FrameType | None) -> bool:
    """Say whether the body of a module other than the main one is being run.

    Args:
        frame: where to begin to look, outwards.
    """
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") != "__main__":
            return True
        frame = frame.f_back
    return False
