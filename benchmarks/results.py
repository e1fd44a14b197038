"""What the whole run has measured, as it is stored."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.cell import Load, Measurement, Seen
from benchmarks.matrix import Cell
from benchmarks.report import SIDES, Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


@dataclass
class Side:
    """All rounds of one side of a set-up.

    Attributes:
        rounds: the measurements.
    """

    rounds: list[Measurement] = field(default_factory=list)

    def values(self, pick: Callable[[Measurement], float | None]) -> list[float]:
        """A figure of each round that has it."""
        return [value for each in self.rounds if (value := pick(each)) is not None]

    def seen(self, kind: str) -> list[Seen]:
        """The loads of a kind."""
        return [each.loads[kind] for each in self.rounds if kind in each.loads]


@dataclass
class Results:
    """Figures and what they were measured on.

    Attributes:
        date: of the first measurement.
        machine: and the interpreter of the command itself.
        load: what was sent.
        versions: of packages, by name, for each line.
        cells: both sides by set-up.
        session: figures of the shared session by scenario, line and side.
        cost: results of other benchmarks by name and line.
        notes: what was left out.
        problems: what was not as intended.
    """

    date: str
    machine: Machine
    load: Load
    versions: dict[str, dict[str, str | None]]
    cells: dict[Cell, dict[str, Side]] = field(default_factory=dict)
    session: dict[str, dict[str, dict[str, dict[str, Any]]]] = field(default_factory=dict)
    cost: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, cell: Cell, found: Mapping[str, Measurement]) -> None:
        """Add one round of a set-up."""
        sides = self.cells.setdefault(cell, {side: Side() for side in SIDES})
        for side, measurement in found.items():
            sides[side].rounds.append(measurement)

    def measured(self, kind: str) -> Iterator[tuple[Cell, Side, Side]]:
        """The set-ups that had a kind of load, with plain LiteLLM's side and ours."""
        for cell, sides in self.cells.items():
            if kind in cell.kinds:
                yield cell, sides["plain"], sides["resilient"]

    def as_dict(self) -> dict[str, Any]:
        """The results as JSON values."""
        cells = [
            {
                "cell": asdict(cell),
                **{name: [each.as_json() for each in side.rounds] for name, side in sides.items()},
            }
            for cell, sides in self.cells.items()
        ]
        own = {name: value for name, value in vars(self).items() if name != "cells"}
        values = {**own, "machine": asdict(self.machine), "load": asdict(self.load)}
        return {**values, "cells": cells}

    def as_json(self) -> str:
        """The results as JSON text."""
        return json.dumps(self.as_dict(), indent=1)

    def as_markdown(self) -> str:
        """The results as a Markdown page."""
        from benchmarks import tables

        return tables.page(self)

    @classmethod
    def load_from(cls, path: Path) -> Results:
        """Read what `as_dict` gave.

        Raises:
            OSError: there is no such file.
        """
        values = json.loads(path.read_text(encoding="utf-8"))
        values["machine"] = Machine(**values["machine"])
        values["load"] = Load(**values["load"])
        cells = values.pop("cells")
        results = cls(**values)
        for each in cells:
            cell = Cell(**{**each["cell"], "kinds": tuple(each["cell"]["kinds"])})
            for side in SIDES:
                for measurement in each[side]:
                    results.add(cell, {side: Measurement.from_json(measurement)})
        return results
