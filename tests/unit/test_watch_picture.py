"""The moving picture shows what was recorded, second by second."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks import watch_picture
from benchmarks.results import DIRECTORY

PROJECT = Path(__file__).parents[2]
LARGEST = 60_000
"""Bytes that a page should be able to load at once."""
SVG = "{http://www.w3.org/2000/svg}"
SCREENS = [
    ["slot  state", "0     serving", "1     serving", "", "  3 s ago  Worker 1 <ready>"],
    ["slot  state", "0     serving", "1     retiring"],
    ["slot  state", "0     draining", "1     serving", "2     serving"],
    ["slot  state", "1     serving", "2     serving"],
]
RECORDING = {
    "date": "2026-01-02",
    "machine": {"versions": {"litellm": "1.106.2", "uvicorn": "0.54.0"}},
    "options": "--num_workers 2 --max_requests_before_restart 150",
    "sides": {
        "plain": {
            "replies": [9, 4, 0, 5],
            "failed": [0, 1, 7, 7],
            "workers": [[1, 2], [1], [], [3]],
            "screens": [],
        },
        "resilient": {
            "replies": [9, 10, 8, 9],
            "failed": [0, 0, 0, 0],
            "workers": [[4, 5], [4, 5], [5, 6], [5, 6]],
            "screens": SCREENS,
        },
    },
}


LOST = [
    "0 requests failed, 0 seconds without a reply",
    "1 request failed, 0 seconds without a reply",
    "7 requests failed, 1 second without a reply",
    "7 requests failed, 1 second without a reply",
]


class Picture:
    """What a viewer shows of a picture."""

    def __init__(self, text: str) -> None:
        self.root = ET.fromstring(text)
        self.style = self.root.findtext(f"{SVG}style") or ""
        frames = re.findall(r"@keyframes k(\d+)\{0%\{visibility:visible\}([\d.]+)%", self.style)
        self.shares = {int(length): float(percent) / 100 for length, percent in frames}
        delays = re.findall(r"\.d(\d+)\{animation-delay:(-[\d.]+)s\}", self.style)
        self.delays = {int(begin): float(delay) for begin, delay in delays}
        self.cycle = float(re.findall(r"animation:([\d.]+)s step-end", self.style)[0])

    def at(self, moment: float) -> list[ET.Element]:
        """Return what can be seen at a moment, in seconds of the picture."""
        seen = [*self.root.findall(f"{SVG}text"), *self.root.findall(f"{SVG}rect")]
        for group in self.root.findall(f"{SVG}g"):
            length, begin = re.findall(r"\d+", group.get("class", ""))
            phase = (moment - self.delays[int(begin)]) / self.cycle % 1
            if phase < self.shares[int(length)]:
                seen += group
        return seen

    def still(self) -> list[ET.Element]:
        """Return what can be seen where nothing moves."""
        seen = [*self.root.findall(f"{SVG}text"), *self.root.findall(f"{SVG}rect")]
        for group in self.root.findall(f"{SVG}g"):
            if "s" in group.get("class", "").split():
                seen += group
        return seen


def screen(seen: list[ET.Element]) -> list[str]:
    """Return the lines of the terminal among what can be seen, below its prompt."""
    texts = [element for element in seen if element.tag == f"{SVG}text"]
    [prompt] = [float(each.get("y", 0)) for each in texts if each.text == watch_picture.PROMPT]
    rows: dict[int, str] = {}
    for each in sorted(texts, key=lambda text: float(text.get("x", 0))):
        row = round((float(each.get("y", 0)) - prompt) / watch_picture.ROW)
        column = round((float(each.get("x", 0)) - watch_picture.MARGIN) / watch_picture.CHARACTER)
        if row > 0:
            rows[row] = rows.get(row, "").ljust(column) + (each.text or "")
    return [rows.get(row, "") for row in range(1, max(rows, default=0) + 1)]


def bars(seen: list[ET.Element]) -> int:
    return sum(element.tag == f"{SVG}rect" and not element.get("class") for element in seen)


def said(seen: list[ET.Element]) -> set[str]:
    return {element.text or "" for element in seen if element.tag == f"{SVG}text"}


@pytest.mark.parametrize("turn", [0, 1])
def test_each_second_shows_what_was_recorded_in_it(turn: int) -> None:
    picture = Picture(watch_picture.draw(RECORDING))
    for second, expected in enumerate(SCREENS):
        moment = turn * picture.cycle + (second + 0.5) / watch_picture.SPEED
        seen = picture.at(moment)
        assert screen(seen) == expected
        assert {f"{second + 1} s", LOST[second], LOST[0]} <= said(seen)
        assert bars(seen) == sum(count > 0 for count in [9, 4, 0, 5][: second + 1]) + second + 1


def test_the_last_second_stays_for_a_while() -> None:
    picture = Picture(watch_picture.draw(RECORDING))
    assert picture.cycle == pytest.approx((4 + watch_picture.REST) / watch_picture.SPEED, rel=1e-3)
    assert screen(picture.at(picture.cycle - 0.01)) == SCREENS[-1]


def test_where_nothing_moves_the_last_frame_is_shown() -> None:
    still = Picture(watch_picture.draw(RECORDING)).still()
    assert screen(still) == SCREENS[-1]
    assert {"1 worker serves", LOST[-1], LOST[0]} <= said(still)
    assert bars(still) == 3 + 4


def test_words_for_those_who_do_not_see_it() -> None:
    root = ET.fromstring(watch_picture.draw(RECORDING))
    title = root.findtext(f"{SVG}title") or ""
    assert f"litellm: {LOST[-1]}" in title
    assert f"litellm-resilient: {LOST[0]}" in title


def test_a_long_recording_has_no_more_frames_than_a_short_one() -> None:
    times = 60
    sides = {
        name: {
            what: [each for each in values for _ in range(times)] for what, values in side.items()
        }
        for name, side in RECORDING["sides"].items()  # type: ignore[attr-defined]
    }
    picture = Picture(watch_picture.draw({**RECORDING, "sides": sides}))
    assert picture.cycle == pytest.approx((240 + 12) / watch_picture.SPEED, rel=1e-3)
    for second in range(times - 1, 4 * times, times):
        seen = picture.at((second - 0.1) / watch_picture.SPEED)
        assert screen(seen) == SCREENS[second // times]
    assert len(picture.shares) <= watch_picture.MOST_FRAMES


def test_the_picture_in_the_readme_is_that_of_the_recording() -> None:
    recording: dict[str, Any] = json.loads((DIRECTORY / "watch.json").read_text(encoding="utf-8"))
    picture = (PROJECT / "docs" / "watch.svg").read_text(encoding="utf-8")
    assert picture == watch_picture.draw(recording)
    assert len(picture.encode()) < LARGEST
    assert "(docs/watch.svg)" in (PROJECT / "README.md").read_text(encoding="utf-8")
