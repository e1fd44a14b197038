"""Capacity over time in characters."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from litellm_resilience.plan import wording

if TYPE_CHECKING:
    from litellm_resilience.plan.chart import Chart
    from litellm_resilience.plan.timeline import Timeline

BLOCKS = " ▁▂▃▄▅▆▇█"
MARK = "▴"
ASCII_BLOCKS = " .-=#"
ASCII_MARK = "^"
CHART_HEIGHT = 4
LEAST_WIDTH = 20


def plot(chart: Chart, width: int, encoding: str) -> str:
    """Draw both timelines above each other, with a mark below each recycle.

    Args:
        chart: what to draw.
        width: columns of the terminal.
        encoding: of the output; without block characters in it, the plot is ASCII.
    """
    unicode = _can_print(BLOCKS + MARK, encoding)
    blocks, mark = (BLOCKS, MARK) if unicode else (ASCII_BLOCKS, ASCII_MARK)
    label = len(str(chart.upstream.workers)) + 1
    columns = max(LEAST_WIDTH, width - label - 1)
    parts = []
    for name, timeline in chart.named:
        parts += [name, *_rows(timeline, columns, blocks, label)]
        parts.append(" " * (label + 1) + _marks(timeline, columns, mark))
    parts.append(_axis(chart.upstream.seconds, columns, label))
    return "\n".join(part.rstrip() for part in parts)


def _can_print(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _rows(timeline: Timeline, columns: int, blocks: str, label: int) -> list[str]:
    steps = len(blocks) - 1
    levels = [
        share * CHART_HEIGHT * steps / timeline.workers
        for share in mean_capacity(timeline, columns)
    ]
    rows = []
    for row in reversed(range(CHART_HEIGHT)):
        cells = (min(steps, max(0, math.floor(level - row * steps + 0.5))) for level in levels)
        title = {CHART_HEIGHT - 1: str(timeline.workers), 0: "0"}.get(row, "")
        rows.append(f"{title:>{label}} " + "".join(blocks[cell] for cell in cells))
    return rows


def mean_capacity(timeline: Timeline, columns: int) -> list[float]:
    """Return the mean number of serving workers in each of so many equal spans of time.

    Args:
        timeline: what to sum up.
        columns: number of spans.
    """
    span = timeline.seconds / columns
    sums = [0.0] * columns
    for (begin, count), (end, _) in pairwise([*timeline.capacity, (timeline.seconds, 0)]):
        for column in range(int(begin / span), min(columns, int(end / span) + 1)):
            covered = min(end, (column + 1) * span) - max(begin, column * span)
            sums[column] += max(0.0, covered) * count
    return [total / span for total in sums]


def _marks(timeline: Timeline, columns: int, mark: str) -> str:
    marked = {int(recycle.stopped / timeline.seconds * columns) for recycle in timeline.recycles}
    return "".join(mark if column in marked else " " for column in range(columns))


def _axis(seconds: float, columns: int, label: int) -> str:
    end = wording.seconds(seconds)
    return " " * (label + 1) + "0" + end.rjust(columns - 1)
