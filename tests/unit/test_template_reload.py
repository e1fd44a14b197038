"""When a template that has ended is loaded again, and when it is given up; without processes."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_mock import MockerFixture

from litellm_resilience.supervisor import template
from litellm_resilience.supervisor.launch import NotYetError
from litellm_resilience.supervisor.template import Template

TIMEOUT = 60.0


class Loading:
    """Stands for the templates, as one process after the other; holds the last one's socket."""

    def __init__(self) -> None:
        self.begun = self.killed = 0
        self._control: socket.socket | None = None

    def process(self, target: Any, args: Any, name: str) -> Loading:
        self._control = args[0].dup()
        return self

    def start(self) -> None:
        self.begun += 1

    def kill(self) -> None:
        self.killed += 1
        self.ends()

    def join(self) -> None:
        """Have ended."""

    def close(self) -> None:
        """Hold nothing."""

    def says(self, what: str) -> None:
        assert self._control is not None
        self._control.send(pickle.dumps((what, None)))

    def ends(self) -> None:
        if self._control is not None:
            self._control.close()


class Lost:
    """A template that has ended, and a clock."""

    def __init__(self, mocker: MockerFixture) -> None:
        self.now = 0.0
        self.loading = Loading()
        nobody: Any = None
        self.it = Template(nobody, nobody, 2, nobody, clock=lambda: self.now)
        self.it._load_timeout = TIMEOUT
        mocker.patch.object(self.it.context, "Process", self.loading.process)
        self.spawned = mocker.patch.object(self.it._spawning, "start")
        self.ordered = mocker.patch.object(self.it, "_order")

    def start(self) -> Any:
        nothing: Any = None
        return self.it.start(nothing, ())


@pytest.fixture
def lost(mocker: MockerFixture) -> Iterator[Lost]:
    it = Lost(mocker)
    yield it
    it.it.end()


def test_a_worker_waits_while_the_template_is_loaded(lost: Lost, mocker: MockerFixture) -> None:
    for lost.now in (0.0, 1.0, TIMEOUT - 1):
        with pytest.raises(NotYetError):
            lost.start()
    lost.loading.says(template.READY)
    lost.now = TIMEOUT + 1
    mocker.patch.object(lost.it, "_answer", return_value=(template.FORKED, 2**22 + 1))
    lost.start()
    assert lost.ordered.call_count == lost.loading.begun == 1
    assert lost.loading.killed == lost.spawned.call_count == 0


def test_a_template_that_is_not_loaded_in_time_is_given_up(lost: Lost) -> None:
    with pytest.raises(NotYetError):
        lost.start()
    lost.now = TIMEOUT
    assert lost.start() is lost.spawned.return_value
    assert lost.it.method == "spawned"
    assert lost.start() is lost.spawned.return_value
    assert lost.loading.begun == lost.loading.killed == 1


def test_a_template_that_ends_while_it_is_loaded_has_one_more_attempt(lost: Lost) -> None:
    with pytest.raises(NotYetError):
        lost.start()
    lost.loading.ends()
    lost.now = TIMEOUT - 1
    with pytest.raises(NotYetError):
        lost.start()
    lost.now = 2 * TIMEOUT - 2
    with pytest.raises(NotYetError):
        lost.start()
    lost.loading.ends()
    assert lost.start() is lost.spawned.return_value
    assert lost.loading.begun == 2
