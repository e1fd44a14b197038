"""The pipe between a worker and its supervisor, whatever is written into it."""

from __future__ import annotations

import os
import threading
from multiprocessing import get_context

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from litellm_resilience.supervisor.link import (
    LONGEST_MESSAGE,
    MOST_MESSAGES_AT_ONCE,
    Link,
    Said,
    Told,
)

MEANT = [said.value for said in Said if said is not Said.UNKNOWN]


@pytest.fixture
def link() -> Link:
    return make()


def make() -> Link:
    return Link.create(get_context("spawn"))


def test_what_is_said_is_heard_once(link: Link) -> None:
    link.worker.say(Said.READY)
    link.worker.say(Said.LIMIT)
    assert link.supervisor.heard() == [Said.READY, Said.LIMIT]
    assert link.supervisor.heard() == []


def test_either_side_notices_that_the_other_is_gone(link: Link) -> None:
    other = make()
    link.worker.close()
    assert link.supervisor.heard() == []
    assert not link.supervisor.open
    other.supervisor.close()
    assert other.worker.told() is Told.GONE


@settings(max_examples=100)
@given(
    st.lists(st.one_of(st.sampled_from(MEANT), st.binary(max_size=LONGEST_MESSAGE)), max_size=20)
)
@example([b"r", b"?", b"l"])
@example([b"rr"])
@example([b""])
def test_an_unknown_message_hides_no_known_one(messages: list[bytes]) -> None:
    link = make()
    for message in messages:
        link.worker.connection.send_bytes(message)
    expected = [Said(message) if message in MEANT else Said.UNKNOWN for message in messages]
    assert link.supervisor.heard() == expected
    assert link.supervisor.open
    link.supervisor.close()
    link.worker.close()


@settings(max_examples=100)
@given(st.binary(min_size=1, max_size=200))
@example(b"x")  # the beginning of a length
@example(b"\x00\x00\x00\x05r")  # less than announced
@example(b"\x7f\xff\xff\xff")  # two gigabytes
@example(b"\xff\xff\xff\xff" + b"\xff" * 8)  # a long message's length
def test_bytes_that_are_no_messages_are_not_waited_for(written: bytes) -> None:
    """As of a worker whose code writes to a file descriptor that is not its own."""
    link = make()
    os.write(link.worker.connection.fileno(), written)
    heard: list[list[Said]] = []
    listener = threading.Thread(target=lambda: heard.append(link.supervisor.heard()), daemon=True)
    listener.start()
    listener.join(5)
    link.worker.close()
    assert heard, "the supervisor waits"
    link.supervisor.close()


def test_a_message_that_is_too_long_is_the_last_that_is_heard(link: Link) -> None:
    link.worker.say(Said.READY)
    link.worker.connection.send_bytes(b"x" * (LONGEST_MESSAGE + 1))
    link.worker.say(Said.LIMIT)
    assert link.supervisor.heard() == [Said.READY, Said.UNKNOWN]
    assert link.supervisor.heard() == []
    assert not link.supervisor.open
    link.supervisor.drain()
    assert link.worker.told() is Told.DRAIN


def test_a_worker_that_never_falls_silent_is_interrupted(link: Link) -> None:
    for _ in range(MOST_MESSAGES_AT_ONCE + 3):
        link.worker.connection.send_bytes(b"?")
    assert len(link.supervisor.heard()) == MOST_MESSAGES_AT_ONCE
    assert len(link.supervisor.heard()) == 3


def test_a_worker_that_does_not_listen_is_not_waited_for(link: Link) -> None:
    def tell() -> None:
        for _ in range(100_000):
            link.supervisor.drain()

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    teller.join(30)
    assert not teller.is_alive()


@pytest.mark.parametrize("message", [b"?", b"dd", b"\xff" * 1000])
def test_a_worker_ignores_what_it_does_not_understand(link: Link, message: bytes) -> None:
    link.supervisor.connection.send_bytes(message)
    link.supervisor.drain()
    assert link.worker.told() is None
    assert link.worker.told() is Told.DRAIN
