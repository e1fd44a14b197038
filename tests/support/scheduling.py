"""Which tests run in one process when `--dist loadgroup` asks for groups.

xdist's own groups are marks, which it no longer finds from pytest 9.2 on.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

TOGETHER = ("tests/process/test_inherited.py",)
"""What these find takes long, and is found once for all of a file's tests."""
PROXY_FOR_EACH_WAY = "tests/production/"
"""Tests of a file with the same arguments share a proxy here."""


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Sends a group of tests to one process, and every other test by itself."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


def group(nodeid: str) -> str:
    """Return the name of a test's group."""
    file, _, name = nodeid.partition("::")
    if file in TOGETHER:
        return file
    if file.startswith(PROXY_FOR_EACH_WAY):
        return f"{file}[{name.partition('[')[2]}"
    return nodeid
