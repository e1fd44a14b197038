"""Types of options that click does not have."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

PICTURE_SUFFIXES = (".png", ".svg")
DAY = 86400
LARGEST_WHOLE_NUMBER = 2**31 - 1
"""Whoever gives more has made a slip."""
LONGEST_SOCKET_PATH = 103
"""Bytes; the least that a platform allows (macOS)."""
SERVICE_ADDRESS = re.compile(r"[a-z]+://")
"""What Kubernetes puts into `NAME_PORT` for a Service called `name`."""


def both_spellings(name: str) -> list[str]:
    """Return an option's spelling with underscores, as LiteLLM's, and with hyphens."""
    return [f"--{name}", f"--{name.replace('_', '-')}"]


class WholeNumber(click.types.IntParamType):
    """A whole number in a range.

    Args:
        least: of the range.
        most: of the range.
    """

    name = "n"
    words: tuple[str, ...] = ()
    """What is accepted beside numbers."""

    def __init__(self, least: int, most: int = LARGEST_WHOLE_NUMBER) -> None:
        self.least = least
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse and check."""
        number = None
        with contextlib.suppress(ValueError):
            number = int(value)
        if number is None or not self.least <= number <= self.most:
            most = "up" if self.most == LARGEST_WHOLE_NUMBER else f"to {self.most}"
            others = "".join(f", nor {word}" for word in self.words)
            told = f"{value!r} is not a whole number from {self.least} {most}{others}."
            self.fail(told, param, ctx)
        return number


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


class NumberOrAuto(WholeNumber):
    """A whole number in a range, `auto` or `off`."""

    name = "n|auto|off"
    words = ("auto", "off")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse and check."""
        return value if value in self.words else super().convert(value, param, ctx)


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


class Finite(click.types.FloatParamType):
    """A float in a range, and neither infinite nor "nan", which compares with nothing.

    Args:
        min: of the range.
        max: of the range; None for any number.
        min_open: whether `min` itself is not in it.
        max_open: whether `max` itself is not in it.
    """

    name = "x"

    def __init__(
        self,
        min: float,  # noqa: A002 - as in click's own ranges
        max: float | None = None,  # noqa: A002
        *,
        min_open: bool = False,
        max_open: bool = False,
    ) -> None:
        self.min, self.max = min, math.inf if max is None else max
        self._open = min_open, max_open

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse and check."""
        number = math.nan
        with contextlib.suppress(ValueError):
            number = float(value)
        above = self.min < number if self._open[0] else self.min <= number
        below = number < self.max if self._open[1] else number <= self.max
        if not (above and below and math.isfinite(number)):
            self.fail(f"{value!r} is not a number {self}.", param, ctx)
        return number

    def __str__(self) -> str:
        """The range in words."""
        words = [f"above {self.min:g}" if self._open[0] else f"from {self.min:g} up"]
        if math.isfinite(self.max):
            words.append(f"below {self.max:g}" if self._open[1] else f"up to {self.max:g}")
        return " and ".join(words)


class PortOption(click.Option):
    """An option for a port; a variable that Kubernetes has set to a Service's address is not set.

    Args:
        name: without dashes; both spellings are made.
        variables: names of environment variables, the first that is set counts.
        text: for `--help`.
    """

    def __init__(self, name: str, variables: Sequence[str], text: str) -> None:
        super().__init__(
            both_spellings(name),
            type=WholeNumber(1, 65535),
            envvar=list(variables),
            show_envvar=True,
            help=text,
        )

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Return the first value that is no Service's address."""
        del ctx
        values = (os.environ.get(name, "") for name in self.envvar or ())
        return next((v for v in values if v and not SERVICE_ADDRESS.match(v)), None)


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
