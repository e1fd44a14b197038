"""A recording of recycling as a moving picture: an SVG that needs no script and no other file.

Each piece of text is drawn once, with the frames in which it is there; an animation of CSS shows
it in those. Where nothing may move (a reader's setting, a viewer without animation), the last frame
is shown.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from html import escape
from typing import TYPE_CHECKING, Any

from benchmarks.setups import SIDES
from litellm_resilience.demo.summary import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Recording = Mapping[str, Any]
    Pieces = dict[str, list[int]]

SPEED = 3
"""Seconds of the recording in a second of the picture."""
REST = 9
"""Seconds of the recording for which the last frame stays."""
MOST_FRAMES = 45
"""Longer recordings are shown with fewer frames than seconds, or the file would be too large."""
WIDTH, MARGIN, ROW, CHARACTER = 760, 20, 17, 7.2
BARS_HEIGHT, BARS_TOP = 56, 62
SCREEN_TOP = BARS_TOP + BARS_HEIGHT + 40
CELL = re.compile(r"\S+(?: \S+)*")
NAMES = dict(zip(SIDES, ("litellm", "litellm-resilient"), strict=True))
PROMPT = "$ litellm-resilient --status --watch"
NOTHING = {"failed": [0], "replies": [1]}
"""What is lost if nothing is."""
STATES = ("booting", "serving", "retiring", "draining")
STYLE = """\
text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;fill:#c9d1d9}
.h{font-size:17px;font-weight:bold;fill:#f0f6fc}.r{text-anchor:end}.p{fill:#8b949e}
.bad{fill:#ff7b72}.o{font-size:11px}.good,.serving{fill:#56d364}.booting,.retiring{fill:#e3b341}.draining{fill:#79c0ff}
rect{fill:#3fb950}.b{fill:#0d1117;stroke:#30363d}.e{stroke:#30363d}
"""


def draw(recording: Recording) -> str:
    """Return the picture.

    Args:
        recording: what `watch.py` has written.
    """
    sides = [recording["sides"][name] for name in SIDES]
    seconds = min(len(side["replies"]) for side in sides)
    stride = math.ceil(seconds / MOST_FRAMES)
    shown = range(stride - 1, seconds, stride)
    total = len(shown) + math.ceil(REST / stride)
    most = max(1, *(max(side["replies"][:seconds], default=0) for side in sides))
    middle = SCREEN_TOP + 2 * ROW
    rows = max((len(sides[1]["screens"][second]) for second in shown), default=0)
    height = middle + SCREEN_TOP + (rows + 1) * ROW + MARGIN
    moving: Pieces = defaultdict(list)
    fixed: list[str] = []
    for name, side, top in zip(SIDES, sides, (0, middle), strict=True):
        fixed += _fixed(f"{NAMES[name]} {recording['options']}", top)
        for frame, second in enumerate(shown):
            for piece in _side(side, second, most, seconds, top):
                moving[piece].append(frame)
    for frame, second in enumerate(shown):
        moving[_text(WIDTH - MARGIN, 52, f"{second + 1} s", "p r")].append(frame)
    groups = _grouped(moving, len(shown), total)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"',
            f'width="{WIDTH}" height="{height}" role="img" aria-labelledby="t">',
            f'<title id="t">{escape(_words(recording, sides, seconds))}</title>',
            f"<style>\n{STYLE}{_rules(groups, total, total * stride / SPEED)}</style>",
            f'<rect class="b" width="{WIDTH}" height="{height}" rx="8"/>',
            f'<path class="e" d="M0 {middle}H{WIDTH}"/>',
            *fixed,
            *_groups(groups, total),
            "</svg>\n",
        ]
    )


def _words(recording: Recording, sides: Sequence[Mapping[str, Any]], seconds: int) -> str:
    versions = recording["machine"]["versions"]
    said = [
        f"{NAMES[name]}: {_lost(side, seconds)}" for name, side in zip(SIDES, sides, strict=True)
    ]
    return (
        f"Workers are recycled while clients send requests. {'; '.join(said)} "
        f"(LiteLLM {versions['litellm']}, uvicorn {versions['uvicorn']}, {recording['date']})."
    )


def _fixed(command: str, top: int) -> Iterator[str]:
    """What does not move on a side."""
    name, _, options = command.partition(" ")
    yield _text(MARGIN, top + 30, name, "h")
    yield _text(MARGIN, top + 52, "replies in each second", "p")
    bottom = top + BARS_TOP + BARS_HEIGHT
    yield f'<path class="e" d="M{MARGIN} {bottom}.5H{WIDTH - MARGIN}"/>'
    yield _text(MARGIN, bottom + 17, options, "p o")


def _side(side: Mapping[str, Any], second: int, most: int, seconds: int, top: int) -> Iterator[str]:
    """What is there in a second."""
    width = _bar_width(seconds)
    bottom = top + BARS_TOP + BARS_HEIGHT
    for before, replies in enumerate(side["replies"][: second + 1]):
        tall = round(BARS_HEIGHT * replies / most, 1)
        if tall:
            left = round(MARGIN + width * before, 1)
            yield (
                f'<rect x="{left:g}" y="{bottom - tall:g}" width="{width - 2:.1f}" '
                f'height="{tall:g}"/>'
            )
    lost = _lost(side, second + 1)
    outcome = "good" if lost == _lost(NOTHING, 1) else "bad"
    yield _text(WIDTH - MARGIN, top + 30, lost, f"{outcome} r")
    screen = top + SCREEN_TOP
    if side["screens"]:
        yield _text(MARGIN, screen, PROMPT, "p")
        for row, line in enumerate(side["screens"][second], start=1):
            for cell in CELL.finditer(line):
                left = round(MARGIN + CHARACTER * cell.start())
                yield _text(left, screen + row * ROW, cell[0], _state(cell[0]))
        return
    serving = len(side["workers"][second])
    serve = "worker serves" if serving == 1 else "workers serve"
    yield _text(MARGIN, screen, f"{serving} {serve}", "good" if serving else "bad")


def _lost(side: Mapping[str, Any], seconds: int) -> str:
    failed = counted(side["failed"][seconds - 1], "request")
    silent = counted(side["replies"][:seconds].count(0), "second")
    return f"{failed} failed, {silent} without a reply"


def _state(cell: str) -> str:
    return cell if cell in STATES else ""


def _bar_width(seconds: int) -> float:
    return (WIDTH - 2 * MARGIN) / seconds


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}"{_class(kind)}>{escape(text, quote=False)}</text>'


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""


def _grouped(moving: Pieces, shown: int, total: int) -> dict[tuple[int, int], list[str]]:
    """The pieces by the first frame and the number of frames of each time that they are there.

    What is there in the last frame stays.
    """
    groups: dict[tuple[int, int], list[str]] = defaultdict(list)
    for piece, there in moving.items():
        begun = there[0]
        for now, following in zip(there, [*there[1:], total + 1], strict=True):
            if following > now + 1:
                end = total if now == shown - 1 else now + 1
                groups[begun, end - begun].append(piece)
                begun = following
    return groups


def _rules(groups: Mapping[tuple[int, int], Sequence[str]], total: int, cycle: float) -> str:
    """The animations: a set of key frames for each length, a delay for each beginning.

    Delays are negative, so that every animation runs from the start.

    Args:
        groups: of pieces.
        total: frames of the picture.
        cycle: its seconds.
    """
    moving = [group for group in groups if group[1] < total]
    lengths = sorted({length for _, length in moving})
    begins = sorted({begin for begin, _ in moving})
    lines = [
        f"g{{visibility:hidden;animation:{cycle:g}s step-end infinite}}",
        *(_span(length, 100 * length / total) for length in lengths),
        *(f".d{begin}{{animation-delay:{(begin / total - 1) * cycle:.3f}s}}" for begin in begins),
        ".s{visibility:visible}",
        "@media(prefers-reduced-motion:reduce){g{animation:none}}",
    ]
    return "\n".join(lines) + "\n"


def _span(length: int, percent: float) -> str:
    return (
        f".l{length}{{animation-name:k{length}}}@keyframes k{length}"
        f"{{0%{{visibility:visible}}{percent:.3f}%,to{{visibility:hidden}}}}"
    )


def _groups(groups: Mapping[tuple[int, int], Sequence[str]], total: int) -> Iterator[str]:
    for (begin, length), pieces in sorted(groups.items()):
        last = " s" if begin + length == total else ""
        together = "".join(pieces)
        yield together if length == total else f'<g class="l{length} d{begin}{last}">{together}</g>'
