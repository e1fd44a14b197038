"""What a forked worker gets of its own: found once by evidence, replaced in each worker."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from litellm_resilience.servers.inheritance import connections, generators, identities, telemetry

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")


class Slotted:
    __slots__ = ("name",)
    name: str


class Plain:
    of_class = ""


def in_dict(value: str) -> tuple[Any, Callable[[], str]]:
    held = {"other": "other", "name": value}
    return held, lambda: held["name"]


def in_list(value: str) -> tuple[Any, Callable[[], str]]:
    held = ["other", value]
    return held, lambda: held[1]


def in_instance(value: str) -> tuple[Any, Callable[[], str]]:
    held = Plain()
    held.name = value  # type: ignore[attr-defined]
    return held, lambda: str(vars(held)["name"])


def in_slot(value: str) -> tuple[Any, Callable[[], str]]:
    held = Slotted()
    held.name = value
    return held, lambda: str(held.name)


def in_class(value: str) -> tuple[Any, Callable[[], str]]:
    Plain.of_class = value
    namespace = next(
        held
        for held in gc.get_referents(Plain)
        if isinstance(held, dict) and held.get("of_class") is value
    )
    return namespace, lambda: Plain.of_class


def in_default(value: str) -> tuple[Any, Callable[[], str]]:
    def function(first: str = "other", second: str = value) -> str:
        return first + second

    return function.__defaults__, lambda: function().removeprefix("other")


def in_closure(value: str) -> tuple[Any, Callable[[], str]]:
    def function() -> str:
        return value

    assert isinstance(function, FunctionType)
    assert function.__closure__ is not None
    return function.__closure__[0], function


@pytest.mark.parametrize(
    "kept", [in_dict, in_list, in_instance, in_slot, in_class, in_default, in_closure]
)
def test_an_identity_is_replaced_wherever_it_is_held(
    kept: Callable[[str], tuple[Any, Callable[[], str]]],
) -> None:
    old, new = str(uuid.uuid4()), str(uuid.uuid4())
    holder, current = kept(old)
    assert current() == old
    for assign in identities.assignments(holder, old):
        assign(new)
    assert current() == new


@pytest.mark.parametrize(
    "place", [lambda text: {text: 1}, lambda text: {text}, lambda text: (text,)]
)
def test_what_is_a_key_or_in_a_tuple_cannot_be_replaced(place: Callable[[str], Any]) -> None:
    text = str(uuid.uuid4())
    assert identities.assignments(place(text), text) == []


def test_a_draw_is_known_however_it_is_written() -> None:
    program = """
        import secrets, uuid
        drawn = uuid.uuid4()
        TEXTS = [str(drawn), drawn.hex, secrets.token_hex(16), secrets.token_urlsafe(9), "written"]
        KEYED = {str(uuid.uuid4()): None}
    """
    assert outcome(program, "[*module.TEXTS, *module.KEYED]") == [True] * 4 + [False] * 2


def test_a_default_is_found_also_when_the_garbage_collector_has_forgotten_its_tuple() -> None:
    program = "import uuid\ndef function(name=str(uuid.uuid4())):\n    return name"
    forgotten = (
        "gc.collect() and None or gc.is_tracked(module.function.__defaults__) and sys.exit()"
    )
    assert outcome(program, "[module.function()]", before=forgotten) == [True]


def test_hundreds_of_draws_are_told_apart() -> None:
    """With ddtrace, imports draw more than 500."""
    program = "import uuid\nTEXTS = [f'a{uuid.uuid4().hex}b' for _ in range(2000)]"
    assert outcome(program, "[*module.TEXTS]") == [True] * 2000


def test_what_the_command_draws_for_itself_stays() -> None:
    drawn = "setattr(module, 'late', str(__import__('uuid').uuid4())) or module.late"
    assert outcome("EARLY = None", "[module.late]", before=drawn) == [False]


def outcome(program: str, values: str, before: str = "None") -> list[bool]:
    """Return which values of a module have changed after the identities were renewed."""
    command = f"""
        import gc, importlib.util, json, sys
        from litellm_resilience.servers.inheritance.identities import Identities
        found = Identities()
        found.watch()
        module = type(sys)("imported")
        exec(compile({textwrap.dedent(program)!r}, "imported", "exec"), vars(module))
        {before}
        old = {values}
        for _ in range(2):
            found.forget()
            found.find([held for held in gc.get_objects() if held is not old])
        kept = list(map(str, old))
        found.renew()
        print(json.dumps([a != b for a, b in zip(kept, {values})]))
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(command)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert ended.stdout, ended.stderr
    changed: list[bool] = json.loads(ended.stdout)
    return changed


def test_only_generators_that_drew_their_seed_are_seeded_again() -> None:
    found = generators.Generators()
    found.watch()
    drawn, seeded, again = random.Random(), random.Random(5), random.Random(6)
    again.seed()
    states = [generator.getstate() for generator in (drawn, seeded, again)]
    found.find([drawn, seeded, again, random.SystemRandom()])
    found.reseed()
    changed = [
        generator.getstate() != state
        for generator, state in zip((drawn, seeded, again), states, strict=True)
    ]
    assert changed == [True, False, True]


def test_numpys_generators_are_seeded_again_where_they_drew_their_seed() -> None:
    numpy = pytest.importorskip("numpy")
    made = [numpy.random.default_rng(), numpy.random.default_rng(5), numpy.random.RandomState(5)]
    bits = [made[0].bit_generator, made[1].bit_generator, made[2]._bit_generator]
    before = [str(generator.state) for generator in bits]
    found = generators.Generators()
    found.find(bits)
    found.reseed()
    assert [str(g.state) != old for g, old in zip(bits, before, strict=True)] == [
        True,
        False,
        False,
    ]


@on_linux
def test_a_connection_has_ended_for_the_worker_and_not_for_its_parent() -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        peer, _ = server.accept()

        def work() -> None:
            connections.forget_inherited()
            theirs.send((client.recv(1), server.getsockname()))

        worker = context.Process(target=work)
        worker.start()
        assert ours.recv() == (b"", server.getsockname()), "the listening socket stays"
        worker.join()
        assert worker.exitcode == 0
        with peer:
            client.sendall(b"x")
            assert peer.recv(1) == b"x"
            peer.sendall(b"y")
            assert client.recv(1) == b"y"


def test_opentelemetrys_resource_names_the_worker() -> None:
    """A version of its SDK that does so itself leaves nothing to do, and no harm is done."""
    resources = pytest.importorskip("opentelemetry.sdk.resources")
    resource = resources.Resource(
        {"process.pid": 1, "service.instance.id": "made before", "service.name": "proxy"}
    )
    found = telemetry.Resources()
    found.find([resource])
    found.renew()
    assert resource.attributes["process.pid"] == os.getpid()
    assert resource.attributes["service.instance.id"] != "made before"
    assert resource.attributes["service.name"] == "proxy"
