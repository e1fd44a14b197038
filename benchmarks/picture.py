"""Replies per second over time as a picture, plain `litellm` above, `litellm-resilience` below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.setups import PICTURED
from litellm_resilience.plan import picture

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.results import Results, Seen

NAMES = ("litellm", "litellm-resilience")


def possible() -> bool:
    """Whether there is what draws."""
    try:
        picture.load()
    except ImportError:
        return False
    return True


def save(results: Results, path: Path) -> bool:
    """Draw the set-up that was measured for it.

    Args:
        results: of the whole run.
        path: where to.

    Returns:
        Whether that set-up was measured.

    Raises:
        ImportError: matplotlib is not installed.
    """
    for cell, sides in results.cells.items():
        firsts = [rounds[0].loads for rounds in sides.values() if rounds]
        loads = [first[PICTURED] for first in firsts if PICTURED in first]
        if len(loads) == len(NAMES):
            _draw(f"LiteLLM {cell}", loads, results, path)
            return True
    return False


def _draw(title: str, loads: list[Seen], results: Results, path: Path) -> None:
    figure = picture.load()(figsize=(9, 5), layout="constrained")
    figure.suptitle(f"{title}: {results.load.clients} clients, limit {results.load.limit}")
    axes = figure.subplots(len(loads), sharex=True, sharey=True)
    for axis, colour, name, seen in zip(axes, picture.COLOURS, NAMES, loads, strict=True):
        _draw_side(axis, colour, seen)
        failed = f"{seen.failed} of {seen.requests:,} requests failed"
        axis.set_title(f"{name}: {failed}, ▲ worker left", loc="left")
        axis.set_ylabel("replies per second")
    axes[-1].set_xlabel("seconds of load")
    replies = [_whole_seconds(seen) for seen in loads]
    axes[0].set_ylim(0, 1.1 * max(1, *(max(each, default=0) for each in replies)))
    axes[0].set_xlim(0, max(1, *map(len, replies)))
    picture.write(figure, title, path)


def _draw_side(axis: Any, colour: str, seen: Seen) -> None:
    replies = _whole_seconds(seen)
    moments = range(len(replies) + 1)
    counts = [*replies, *replies[-1:]]
    axis.fill_between(moments, counts, step="post", color=colour, alpha=0.3)
    axis.step(moments, counts, where="post", color=colour)
    left = [moment for moment in seen.recycles if 0 <= moment <= len(replies)]
    axis.plot(left, [0] * len(left), "^", color="black", markersize=5, clip_on=False)


def _whole_seconds(seen: Seen) -> list[int]:
    """The replies of each second; the last one may have been cut short."""
    return seen.replies[: int(seen.seconds)]
