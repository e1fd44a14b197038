"""Statistics of measurements taken in turns, the machine they were taken on, and output."""

from __future__ import annotations

import json
import math
import os
import platform
import random
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from litellm_resilience.status.versions import report as installed_versions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RESAMPLES = 1000
SIDES = ("plain", "resilient")
"""What is compared: plain LiteLLM, and the same with litellm-resilience."""

Number = TypeVar("Number", int, float)


def order(number: int) -> tuple[str, ...]:
    """Which side goes first: not always the same one."""
    return SIDES if number % 2 == 0 else SIDES[::-1]


def positive(kind: type[Number]) -> Callable[[str], Number]:
    """Return a parser of positive numbers for argparse."""

    def parse(text: str) -> Number:
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError(text)
        return value

    parse.__name__ = f"positive {kind.__name__}"
    return parse


@dataclass
class Comparison:
    """One quantity on both sides; entry i of each list comes from the same round.

    Attributes:
        name: what was measured.
        unit: its unit.
        plain: plain LiteLLM, one value per round.
        resilient: the same with litellm-resilience.
        goal: what the ratio is meant to be, or None.
        better: whether a smaller or a larger value is better.
        absent: what to print for a side without values.
    """

    name: str
    unit: str
    plain: list[float] = field(default_factory=list)
    resilient: list[float] = field(default_factory=list)
    goal: float | None = None
    better: Literal["smaller", "larger"] = "smaller"
    absent: str = "-"

    def add(self, side: str, value: float) -> None:
        """Add one round's value; `side` is the name of the attribute."""
        (self.resilient if side == "resilient" else self.plain).append(value)

    @property
    def ratio(self) -> float | None:
        """Median of the resilient side by that of the plain one; None if one has no values."""
        if not self.plain or not self.resilient:
            return None
        plain = median(self.plain)
        return median(self.resilient) / plain if plain else None

    @property
    def paired_ratio(self) -> float | None:
        """Median of the rounds' ratios, which a drift of the machine hardly touches."""
        ratios = self._ratios
        return median(ratios) if ratios else None

    @property
    def _ratios(self) -> list[float]:
        pairs = zip(self.plain, self.resilient, strict=False)
        return [ours / theirs for theirs, ours in pairs if theirs]

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where `paired_ratio` lies with 95 % confidence: rounds are drawn with replacement."""
        ratios = self._ratios
        if not ratios:
            return None
        draw = random.Random(0)
        drawn = sorted(median(draw.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
        return drawn[int(RESAMPLES * 0.025)], drawn[int(RESAMPLES * 0.975)]

    @property
    def met(self) -> bool | None:
        """Whether all of `interval` meets the goal; None if only a part does, or without a goal."""
        if self.goal is None or self.interval is None:
            return None
        verdicts = {
            bound <= self.goal if self.better == "smaller" else bound >= self.goal
            for bound in self.interval
        }
        return verdicts.pop() if len(verdicts) == 1 else None

    def as_json(self) -> dict[str, Any]:
        """All figures as JSON values."""
        sides = {"plain": self.plain, "resilient": self.resilient}
        return {
            "name": self.name,
            "unit": self.unit,
            "better": self.better,
            "rounds": {side: [float(f"{v:.5g}") for v in values] for side, values in sides.items()},
            "median": {side: median(values) if values else None for side, values in sides.items()},
            "min": {side: min(values, default=None) for side, values in sides.items()},
            "max": {side: max(values, default=None) for side, values in sides.items()},
            "ratio": self.ratio,
            "paired_ratio": self.paired_ratio,
            "paired_ratio_95": self.interval,
            "goal": self.goal,
            "met": self.met,
        }

    def as_row(self) -> list[str]:
        """The cells of the Markdown table."""
        sign = "≤" if self.better == "smaller" else "≥"
        interval = self.interval
        return [
            self.name,
            self._side(self.plain),
            self._side(self.resilient),
            *(
                "-" if ratio is None else f"{ratio:.3f}"
                for ratio in (self.ratio, self.paired_ratio)
            ),
            "-" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}",
            "-" if self.goal is None else f"{sign} {self.goal:g}",
            self._verdict(),
        ]

    def _verdict(self) -> str:
        if self.goal is None or self.interval is None:
            return "-"
        return {True: "met", False: "**missed**", None: "lost in the noise"}[self.met]

    def _side(self, values: Sequence[float]) -> str:
        return f"{median(values):.4g} {self.unit}".rstrip() if values else self.absent


HEADER = (
    "Measured",
    "litellm",
    "litellm-resilience",
    "Ratio",
    "Per round",
    "95 % of that",
    "Goal",
    "",
)


@dataclass(frozen=True)
class Machine:
    """What the measurements were taken on.

    Attributes:
        cores: CPU cores this process may use.
        processor: model of the processor, or the architecture.
        system: operating system.
        load: the load average of the last minute at the start.
        python: its version.
        versions: of the packages involved, by name.
    """

    cores: int
    processor: str
    system: str
    load: float
    python: str
    versions: dict[str, str | None]

    @classmethod
    def here(cls) -> Machine:
        """Describe this machine and what is installed in this interpreter."""
        versions = installed_versions()
        python = versions.pop("python") or ""
        return cls(
            cores=len(os.sched_getaffinity(0)),
            processor=_processor(),
            system=f"{platform.system()} {platform.release()}",
            load=os.getloadavg()[0],
            python=python,
            versions=versions,
        )

    def __str__(self) -> str:
        """One line of text."""
        packages = ", ".join(f"{name} {value}" for name, value in self.versions.items() if value)
        return (
            f"{self.cores} cores ({self.processor}), {self.system}, load {self.load:.1f} at the "
            f"start, Python {self.python}, {packages}"
        )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


@dataclass
class Result:
    """The outcome of a benchmark.

    Attributes:
        title: what it was.
        conditions: how it was measured, in words.
        machine: what it was measured on.
        comparisons: the figures.
        problems: what was not as intended; the figures are then not to be trusted.
    """

    title: str
    conditions: str
    machine: Machine
    comparisons: list[Comparison]
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> str:
        """The result as JSON text."""
        return json.dumps(
            {
                "title": self.title,
                "conditions": self.conditions,
                "machine": asdict(self.machine),
                "results": [comparison.as_json() for comparison in self.comparisons],
                "problems": self.problems,
            },
            indent=2,
        )

    def as_markdown(self) -> str:
        """The result as a Markdown section."""
        rows = [HEADER, ("---",) * len(HEADER), *(each.as_row() for each in self.comparisons)]
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        notes = [self.conditions, f"Machine: {self.machine}."]
        notes += [f"**Problem:** {problem}" for problem in self.problems]
        return "\n\n".join([f"### {self.title}", table, *notes])
