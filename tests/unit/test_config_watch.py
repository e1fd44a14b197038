"""When a changed config file is a reason to reload."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from litellm_resilience.supervisor.config_watch import INTERVAL, LARGEST, ConfigWatch, content
from litellm_resilience.supervisor.journal import Journal

MISSING = "is missing, empty or cannot be read"


class FakeSupervisor:
    """Reloads when it is told that a reload has come to its end."""

    def __init__(self) -> None:
        self.reloads = self.taken_back = self.started = 0
        self.rolling = False
        self.ending: str | None = None

    def reload(self, why: str, now: float) -> list[int]:
        assert not self.ending
        self.reloads += 1
        self.rolling = True
        return []

    def ends(self, *, well: bool = True) -> None:
        self.started += 1
        self.taken_back += not well
        self.rolling = False


class Watched:
    """A file, who watches it, and the time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_text("a")
        self.supervisor = FakeSupervisor()
        journal: Any = Journal(logging.getLogger("test"))
        supervisor: Any = self.supervisor
        self.watch = ConfigWatch(str(path), supervisor, journal)
        self.now = 0.0

    def look(self, text: str | None = None, *, times: int = 2) -> int:
        """Look so many times, after the file was written; return the number of reloads so far."""
        if text is not None:
            self.path.write_text(text)
        for _ in range(times):
            self.now += INTERVAL
            self.watch.attend(self.now, ())
        return self.supervisor.reloads


@pytest.fixture
def watched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Watched:
    caplog.set_level(logging.INFO)
    return Watched(tmp_path / "config.yaml")


def test_a_new_content_is_a_reason_once_two_looks_have_found_it(watched: Watched) -> None:
    assert watched.look() == 0
    assert watched.look("b", times=1) == 0
    assert watched.look("bc", times=1) == 0, "it was being written"
    assert watched.look(times=1) == 1
    watched.supervisor.ends()
    assert watched.look(times=5) == 1
    assert watched.look("a") == 2


def test_it_is_not_read_more_often_than_it_should_be(watched: Watched) -> None:
    watched.look("b", times=1)
    for _ in range(5):
        watched.watch.attend(watched.now, ())
    assert watched.supervisor.reloads == 0


def test_what_is_written_again_as_it_was_is_no_reason(watched: Watched) -> None:
    watched.look("b", times=1)
    assert watched.look("a", times=5) == 0
    os.utime(watched.path, (1, 1))
    assert watched.look() == 0


def test_a_file_that_cannot_be_read_is_said_once(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.path.unlink()
    watched.look(times=1)
    watched.look("a")
    assert MISSING not in caplog.text, "it was away for a moment"
    watched.look("", times=5)
    watched.path.unlink()
    watched.look(times=5)
    watched.path.mkdir()
    assert watched.look(times=5) == 0
    assert caplog.text.count(MISSING) == 1
    watched.path.rmdir()
    assert watched.look("a") == 0
    assert watched.look("b") == 1


def test_a_content_that_was_rejected_is_not_tried_until_it_changes(watched: Watched) -> None:
    assert watched.look("bad") == 1
    watched.supervisor.ends(well=False)
    assert watched.look(times=5) == 1
    assert watched.look("a", times=5) == 1, "the workers have read that"
    assert watched.look("bad", times=5) == 1
    assert watched.look("good") == 2


def test_a_change_during_a_reload_is_taken_after_it(watched: Watched) -> None:
    watched.look("b")
    assert watched.look("c", times=5) == 1
    watched.supervisor.ends()
    assert watched.look(times=1) == 2
    watched.supervisor.ends()
    assert watched.look(times=5) == 2


@pytest.mark.parametrize("well", [True, False])
def test_a_reload_that_somebody_asks_for_is_not_repeated(watched: Watched, well: bool) -> None:
    watched.path.write_text("b")
    watched.supervisor.reload("told", watched.now)
    watched.look()
    watched.supervisor.ends(well=well)
    assert watched.look(times=5) == 1


@pytest.mark.parametrize("during_a_reload", [True, False])
def test_workers_that_may_have_read_different_contents_are_made_equal(
    watched: Watched, during_a_reload: bool
) -> None:
    """One dies while another content is there; then the old content is not all that serves."""
    if during_a_reload:
        watched.look("b")
    else:
        watched.look("bad")
        watched.supervisor.ends(well=False)
        watched.look(times=1)
    watched.supervisor.started += 1
    watched.look("other" if during_a_reload else None, times=1)
    if during_a_reload:
        watched.supervisor.ends()
    assert watched.look("b" if during_a_reload else "a") == 2


def test_nothing_is_reloaded_while_the_proxy_ends(watched: Watched) -> None:
    watched.supervisor.ending = "draining"
    assert watched.look("b", times=5) == 0


def test_nothing_that_is_no_file_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(LARGEST + 1)
    for name in ("pipe", "loop", "large", "", "no\0name", "/proc/self/mem", "/dev/zero"):
        assert content(str(tmp_path / name)) is None, name
