"""The memory limit of this group of processes, and what is used of it: cgroups, v2 or v1."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

UNLIMITED = 1 << 60
"""v1 has no word for it, and says a number above any memory there is."""


MOUNT = re.compile(
    r"^\d+ \d+ \S+ (?P<top>/\S*) (?P<place>/\S*) .* - (?P<kind>\S+) \S+ (?P<settings>\S+)$",
    re.MULTILINE,
)
"""A line of /proc/self/mountinfo."""


class UnreadableError(Exception):
    """What the system says of the limit cannot be read or means nothing."""


@dataclass(frozen=True)
class Usage:
    """A group of processes with a memory limit.

    Args:
        limit: bytes.
        used: bytes that all its processes hold, without what the kernel keeps of files.
        pressure: percent of the last ten seconds in which a process waited for memory; 0 where
            the kernel does not say.
    """

    limit: int
    used: int
    pressure: float = 0.0


@dataclass(frozen=True)
class _Names:
    """How the files of a version are called."""

    limits: tuple[str, ...]
    used: str
    files: tuple[str, ...]
    pressure: str = ""


V1 = _Names(
    ("memory.limit_in_bytes",),
    "memory.usage_in_bytes",
    ("total_active_file", "total_inactive_file"),
)
V2 = _Names(
    ("memory.max", "memory.high"),
    "memory.current",
    ("active_file", "inactive_file"),
    "memory.pressure",
)


def usage(root: Path = Path("/")) -> Usage | None:
    """Return the group, of this process's and those around it, that is nearest to its limit.

    Everything is read anew, because limits change and processes are moved. That takes about 0.2 ms.

    Args:
        root: where `proc` and the cgroup file systems are; another one in tests.

    Returns:
        None if no limit applies.

    Raises:
        UnreadableError: it cannot be told.
    """
    try:
        names, folders = _find(root)
        found = [known for folder in folders if (known := _read(folder, names)) is not None]
    except OSError as error:
        raise UnreadableError(f"{error.filename}: {error.strerror or error}") from error
    return min(found, key=lambda group: group.limit - group.used, default=None)


def _find(root: Path) -> tuple[_Names, list[Path]]:
    """Return the folders of this process's group and of those around it, the innermost first."""
    groups = list(_groups(root))
    for controllers, path in groups:
        if "memory" in controllers:
            return V1, _folders(root, "cgroup", path)
    for controllers, path in groups:
        if controllers == [""]:
            return V2, _folders(root, "cgroup2", path)
    raise UnreadableError("this process is in no group that has memory")


def _groups(root: Path) -> Iterator[tuple[list[str], PurePosixPath]]:
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if not number.isdigit() or not colon or not path.startswith("/"):
            raise UnreadableError(f"/proc/self/cgroup says {line[:40]!r}")
        yield controllers.split(","), PurePosixPath(path)


def _folders(root: Path, kind: str, path: PurePosixPath) -> list[Path]:
    for mount in MOUNT.finditer(_text(root / "proc/self/mountinfo")):
        if mount["kind"] != kind:
            continue
        if kind == "cgroup" and "memory" not in mount["settings"].split(","):
            continue
        top, place = PurePosixPath(_plain(mount["top"])), root / _plain(mount["place"]).lstrip("/")
        # In a container that sees no group but its own, or a path that is not mounted here.
        inner = path.relative_to(top) if path.is_relative_to(top) else PurePosixPath()
        if ".." in inner.parts:
            inner = PurePosixPath()
        return [place / part for part in (inner, *inner.parents)]
    raise UnreadableError(f"no file system of the type {kind} with memory is mounted")


def _plain(escaped: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), escaped)


def _read(folder: Path, names: _Names) -> Usage | None:
    if not folder.is_dir():
        raise UnreadableError(f"{folder} is not there")
    limits = [limit for name in names.limits if (limit := _limit(folder / name)) is not None]
    if not limits:
        return None
    used = _number(folder / names.used, _text(folder / names.used))
    return Usage(min(limits), max(0, used - _files(folder, names)), _pressure(folder, names))


def _limit(path: Path) -> int | None:
    try:
        text = _text(path)
    except FileNotFoundError:
        return None  # of the outermost group, or where memory is not watched
    if text.strip() == "max":
        return None
    limit = _number(path, text)
    return limit if limit < UNLIMITED else None


def _number(path: Path, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text.strip()):
        raise UnreadableError(f"{path} says {text[:40]!r}")
    return int(text)


def _files(folder: Path, names: _Names) -> int:
    """Return the bytes of files that the kernel keeps as long as nobody needs the memory."""
    wanted = rf"^(?:{'|'.join(names.files)}) (\d+)$"
    found = re.findall(wanted, _optional(folder / "memory.stat"), re.MULTILINE)
    return sum(map(int, found))


def _pressure(folder: Path, names: _Names) -> float:
    text = _optional(folder / names.pressure) if names.pressure else ""
    found = re.search(r"^some avg10=(\d+(?:\.\d+)?)\b", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def _optional(path: Path) -> str:
    try:
        return _text(path)
    except OSError:  # older kernels, or switched off
        return ""


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="replace")
