"""Measurements on disk, one file each, so that an interrupted run goes on where it was."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

CONDITIONS = "conditions"


class ConditionsError(Exception):
    """What is on disk was measured under other conditions."""


class Store:
    """Keeps what was measured under the same conditions.

    Args:
        directory: for the files; made if it is not there.
        conditions: JSON values that must be the same for all measurements.
        fresh: forget what is there.

    Raises:
        ConditionsError: what is there was measured under other conditions.
    """

    def __init__(
        self, directory: Path, conditions: Mapping[str, Any], *, fresh: bool = False
    ) -> None:
        self._directory = directory
        if fresh:
            shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True, exist_ok=True)
        before = self.get(CONDITIONS) or {}
        check_conditions(before, conditions)
        self.put(CONDITIONS, {**before, **conditions})

    def get(self, key: str) -> Any:
        """What was stored under a name; None if nothing was."""
        try:
            return json.loads(self._path(key).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def put(self, key: str, value: Any) -> None:
        """Store a JSON value; an interruption leaves the old one or the new one."""
        write_json(self._path(key), value)

    def once(self, key: str, measure: Callable[[], Any]) -> Any:
        """What was stored under a name, measured now if nothing was."""
        found = self.get(key)
        if found is None:
            found = measure()
            self.put(key, found)
        return found

    def _path(self, key: str) -> Path:
        return self._directory / f"{key}.json"


def check_conditions(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare the conditions of earlier measurements with those of now, where both have them.

    Raises:
        ConditionsError: they differ; says in what.
    """
    names = [name for name, value in now.items() if before.get(name, value) != value]
    if names:
        changes = ", ".join(f"{name} was {before[name]!r}, is {now[name]!r}" for name in names)
        raise ConditionsError(f"measured under other conditions: {changes}")


def write_json(path: Path, value: Any) -> None:
    """Replace a file by one with this JSON value."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
