"""Capacity over time as a picture; the only use of matplotlib, which is imported when asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from litellm_resilience.plan.chart import Chart
    from litellm_resilience.plan.timeline import Timeline

COLOURS = ("tab:red", "tab:green")


def load() -> Any:
    """Return what makes a figure.

    Raises:
        ImportError: matplotlib is not installed.
    """
    return importlib.import_module("matplotlib.figure").Figure


def save(chart: Chart, title: str, path: Path) -> None:
    """Draw both timelines above each other.

    Args:
        chart: what to draw.
        title: of the picture.
        path: where to; its suffix chooses the format.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    figure = load()(figsize=(9, 5), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(len(chart.named), sharex=True, sharey=True)
    for axis, colour, (name, timeline) in zip(axes, COLOURS, chart.named, strict=True):
        _draw(axis, colour, timeline)
        axis.set_title(name, loc="left")
        axis.set_ylabel("serving workers")
    axes[-1].set_xlabel("seconds after a deploy")
    write(figure, title, path)


def write(figure: Any, title: str, path: Path) -> None:
    """Write a figure; the same figure makes the same file, with no date and no random ids.

    Args:
        figure: made with what `load` returns.
        title: of the picture.
        path: where to; its suffix chooses the format.

    Raises:
        OSError: the file cannot be written.
    """
    with importlib.import_module("matplotlib").rc_context({"svg.hashsalt": title}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw(axis: Any, colour: str, timeline: Timeline) -> None:
    moments, counts = zip(*timeline.capacity, (timeline.seconds, 0), strict=True)
    counts = (*counts[:-1], counts[-2])
    axis.fill_between(moments, counts, step="post", color=colour, alpha=0.3)
    axis.step(moments, counts, where="post", color=colour)
    stops = [recycle.stopped for recycle in timeline.recycles if recycle.stopped < moments[-1]]
    axis.plot(stops, [0] * len(stops), "^", color="black", markersize=4, clip_on=False)
    axis.set_ylim(0, timeline.workers * 1.1)
    axis.set_xlim(0, timeline.seconds)
    axis.yaxis.get_major_locator().set_params(integer=True)
