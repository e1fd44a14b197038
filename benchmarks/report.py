"""Statistics of measurements taken in turns, the machine they were taken on, and output."""

from __future__ import annotations

import math
import os
import platform
import random
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.setups import SIDES
from litellm_resilience.status.versions import report as installed_versions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

RESAMPLES = 1000
CONFIDENCE = 0.95
TOLERANCE = 1e-9
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


def order(number: int) -> tuple[str, ...]:
    """Which side goes first: not always the same one."""
    return SIDES if number % 2 == 0 else SIDES[::-1]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; empty without rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    head = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return "\n".join(head + lines) if lines else ""


def most_expected(failed: int) -> float:
    """The largest mean of a Poisson number that `failed` or fewer is plausible for, at 95 %.

    It is 3.0 for 0 failures, hence the rule of three: below 3 in N.

    Args:
        failed: how many failed.
    """
    low, high = float(failed), failed + 10.0 * math.sqrt(failed + 1.0) + 50.0
    while high - low > TOLERANCE * high:
        middle = (low + high) / 2
        logarithms = (n * math.log(middle) - middle - math.lgamma(n + 1) for n in range(failed + 1))
        if math.fsum(map(math.exp, logarithms)) > 1 - CONFIDENCE:
            low = middle
        else:
            high = middle
    return high


def upper_bound(failed: int, requests: int) -> float:
    """The share of failed requests that is not exceeded, with 95 % confidence.

    Args:
        failed: how many failed.
        requests: of so many.

    Raises:
        ValueError: there were no requests, or fewer than failed.
    """
    if not 0 <= failed <= requests or not requests:
        raise ValueError("requests must be positive, and failed at most as many")
    return min(1.0, most_expected(failed) / requests)


@dataclass
class Comparison:
    """One quantity on both sides.

    Attributes:
        name: what was measured.
        unit: its unit.
        goal: what the ratio is meant to be, or None.
        better: whether a smaller or a larger value is better.
        absent: what to print for a side without values.
        rounds: values by side; entry i of both comes from the same round.
    """

    name: str
    unit: str
    goal: float | None = None
    better: Literal["smaller", "larger"] = "smaller"
    absent: str = "-"
    rounds: dict[str, list[float]] = field(default_factory=lambda: {side: [] for side in SIDES})

    @property
    def ratio(self) -> float | None:
        """Median of our side by that of the plain one; None if one has no values."""
        plain, ours = self._each(median).values()
        return ours / plain if plain and ours is not None else None

    @property
    def paired_ratio(self) -> float | None:
        """Median of the rounds' ratios, which a drift of the machine hardly touches."""
        return median(self._ratios) if self._ratios else None

    @property
    def _ratios(self) -> list[float]:
        pairs = zip(*self.rounds.values(), strict=False)
        return [ours / plain for plain, ours in pairs if plain]

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
        sign = 1 if self.better == "smaller" else -1
        verdicts = {sign * bound <= sign * self.goal for bound in self.interval}
        return verdicts.pop() if len(verdicts) == 1 else None

    def _each(self, figure: Any) -> dict[str, float | None]:
        return {side: figure(values) if values else None for side, values in self.rounds.items()}

    def as_json(self) -> dict[str, Any]:
        """All figures as JSON values."""
        shown = {side: [float(f"{v:.5g}") for v in each] for side, each in self.rounds.items()}
        return {
            "name": self.name,
            "unit": self.unit,
            "better": self.better,
            "rounds": shown,
            "median": self._each(median),
            "min": self._each(min),
            "max": self._each(max),
            "ratio": self.ratio,
            "paired_ratio": self.paired_ratio,
            "paired_ratio_95": self.interval,
            "goal": self.goal,
            "met": self.met,
        }

    def as_row(self) -> list[str]:
        """The cells of the Markdown table."""
        medians = self._each(median).values()
        ratios = (self.ratio, self.paired_ratio)
        interval = self.interval
        verdict = {True: "met", False: "**missed**", None: "lost in the noise"}[self.met]
        sign = "≤" if self.better == "smaller" else "≥"
        return [
            self.name,
            *(self.absent if v is None else f"{v:.4g} {self.unit}".rstrip() for v in medians),
            *("-" if ratio is None else f"{ratio:.3f}" for ratio in ratios),
            "-" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}",
            "-" if self.goal is None else f"{sign} {self.goal:g}",
            "-" if self.goal is None or interval is None else verdict,
        ]


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


@dataclass(frozen=True)
class Outcome:
    """What a subcommand has found.

    Attributes:
        values: all of it as JSON values.
        paragraphs: the same as Markdown.
        problems: what was not as intended; the figures are then not to be trusted.
    """

    values: Mapping[str, Any]
    paragraphs: Sequence[str]
    problems: Sequence[str] = ()

    @property
    def markdown(self) -> str:
        """All of it, to be read."""
        problems = (f"**Problem:** {problem}" for problem in self.problems)
        return "\n\n".join(filter(None, (*self.paragraphs, *problems)))


def compared(
    title: str,
    conditions: str,
    machine: Machine,
    comparisons: Sequence[Comparison],
    problems: Sequence[str] = (),
) -> Outcome:
    """Return what was found by measuring both sides in turns.

    Args:
        title: what was measured.
        conditions: how, in words.
        machine: on what.
        comparisons: the figures.
        problems: see `Outcome`.
    """
    values = {
        "title": title,
        "conditions": conditions,
        "machine": asdict(machine),
        "results": [comparison.as_json() for comparison in comparisons],
        "problems": list(problems),
    }
    rows = table(HEADER, [comparison.as_row() for comparison in comparisons])
    return Outcome(values, [f"### {title}", rows, conditions, f"Machine: {machine}."], problems)
