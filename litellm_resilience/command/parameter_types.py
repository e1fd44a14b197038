"""Types of options that click does not have."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import stat
from pathlib import Path
from typing import Any, cast

import click

PICTURE_SUFFIXES = (".png", ".svg")
DAY = 86400
LONGEST_SOCKET_PATH = 103
"""Bytes; the least that a platform allows (macOS)."""


class Fraction(click.types.FloatParamType):
    """A share above 0 and below 1, such as `0.01` or `1%`."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse and check."""
        text = str(value)
        number: float = super().convert(cast("Any", text.removesuffix("%")), param, ctx)
        share = number / 100 if text.endswith("%") else number
        if not 0 < share < 1:
            self.fail(f"{value} is not a share such as 0.01 or 1%.", param, ctx)
        return share


class SecondsOrAuto(click.types.FloatParamType):
    """A positive number of seconds up to a day, or `auto`, which becomes None."""

    name = "seconds|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse and check."""
        if value == "auto":
            return None
        number = super().convert(value, param, ctx)
        if not 0 < number <= DAY:
            self.fail(f"{value} is neither auto nor above 0 and at most {DAY}.", param, ctx)
        return number


class Names(click.ParamType[frozenset[str]]):
    """Names of processes, separated by commas."""

    name = "names"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> frozenset[str]:
        """Parse and check."""
        names = [name.strip() for name in str(value).split(",")]
        for name in names:
            if not name or "/" in name or not name.isprintable():
                self.fail(f"{value!r}: {name!r} is not the name of a process.", param, ctx)
        return frozenset(names)


class Modules(click.ParamType[tuple[str, ...]]):
    """Names of Python modules, separated by commas."""

    name = "modules"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Parse, and check that there are such packages, without importing them."""
        names = tuple(name.strip() for name in str(value).split(","))
        for name in names:
            if not all(part.isidentifier() for part in name.split(".")):
                self.fail(f"{name!r} is not the name of a module.", param, ctx)
            if not _is_installed(name.partition(".")[0]):
                self.fail(f"no module named {name!r} is installed.", param, ctx)
        return names


def _is_installed(module: str) -> bool:
    with contextlib.suppress(ValueError):  # of a module that is only half there
        return importlib.util.find_spec(module) is not None
    return False


class PictureFile(click.Path):
    """The path of a picture to be written."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check that the suffix is that of a picture, and that the folder is there."""
        path = Path(str(super().convert(value, param, ctx)))
        if path.suffix not in PICTURE_SUFFIXES:
            self.fail(f"{value} ends in neither {' nor '.join(PICTURE_SUFFIXES)}.", param, ctx)
        if not _is_folder(path.parent):
            self.fail(f"the folder of {value} does not exist.", param, ctx)
        return path


class Finite(click.FloatRange):
    """A float in a range; "nan" compares with nothing, so click would let it pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse and check."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class SocketPath(click.ParamType[Path]):
    """A path for a Unix socket."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Check that a socket can be made there."""
        path = Path(value).absolute()
        if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
            self.fail(f"{path} is too long for a socket.", param, ctx)
        if not _is_folder(path.parent):
            self.fail(f"{path.parent} is not a directory.", param, ctx)
        if _is_taken(path):
            self.fail(f"{path} exists and is not a socket.", param, ctx)
        return path


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - is_dir raises where it may not look


def _is_taken(path: Path) -> bool:
    try:
        return not stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False
