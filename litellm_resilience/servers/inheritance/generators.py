"""Generators of random numbers that forked workers would all begin at the same number.

One that was given a seed repeats itself in spawned workers too, and is left alone.
"""

from __future__ import annotations

import random
import sys
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

DRAWN_SEED_BITS = 64
"""numpy draws 128 bits where it is given no seed; nobody writes such a number."""


class Generators:
    """The generators of this process."""

    def __init__(self) -> None:
        self._seeded: weakref.WeakSet[random.Random] = weakref.WeakSet()
        self._seed: Any = None
        self._unseeded: list[random.Random] = []
        self._numpy: list[Any] = []

    def watch(self) -> None:
        """Note until `find` is called which generators get a seed. Idempotent."""
        if self._seed is not None:
            return
        self._seed = original = random.Random.seed

        def noting(generator: random.Random, a: Any = None, version: int = 2) -> None:
            original(generator, a, version)
            (self._seeded.discard if a is None else self._seeded.add)(generator)

        kind: Any = random.Random
        kind.seed = noting

    def stop(self) -> None:
        """Stop noting. Idempotent."""
        if self._seed is not None:
            kind: Any = random.Random
            kind.seed, self._seed = self._seed, None

    def find(self, objects: Iterable[Any]) -> None:
        """Remember those without a seed; the `random` module's own renews itself at a fork."""
        self.stop()
        self._unseeded, self._numpy = [], []
        numpy = sys.modules.get("numpy.random")
        numpy_kind = () if numpy is None else numpy.BitGenerator
        own: Any = random
        for thing in objects:
            if issubclass(type(thing), random.Random) and type(thing) is not random.SystemRandom:
                if thing not in self._seeded and thing is not own._inst:
                    self._unseeded.append(thing)
            elif issubclass(type(thing), numpy_kind) and _drew_its_seed(thing):
                self._numpy.append(thing)

    def reseed(self) -> None:
        """Begin each at a number of its own."""
        for generator in self._unseeded:
            generator.seed()
        for generator in self._numpy:
            generator.state = type(generator)().state


def _drew_its_seed(generator: Any) -> bool:
    sequence = getattr(generator, "seed_seq", None) or getattr(generator, "_seed_seq", None)
    entropy = getattr(sequence, "entropy", None)
    return isinstance(entropy, int) and entropy.bit_length() > DRAWN_SEED_BITS
