"""Identities that a module drew at random when it was imported, such as LiteLLM's `pod_id`.

Forked workers would share them. Which they are is known from the draws themselves, not from names:
whatever text contains a value that the operating system's generator gave to an import is found
among all objects, and gets a new value at the same place. Secret keys, which are bytes, may stay
shared; what the command drew for itself is in no import.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import importlib
import os
import random
import re
import sys
import uuid
from collections import defaultdict
from functools import partial
from types import CellType, FunctionType
from typing import TYPE_CHECKING, Any

from litellm_resilience.supervisor.importing import importing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Assign = Callable[[Any], object]

SHORTEST_DRAW = 8
"""Bytes; less may be found by chance."""

LONGEST_TEXT = 256

AT_ONCE = 1024
"""Objects that are looked through together, which is several times faster."""

_UNLISTED = (dict, tuple)
_RUN = re.compile(r"[\w-]{11,}", re.ASCII)
_HEXADECIMAL = re.compile("[0-9a-f][0-9a-f-]{15,}")


def spellings(draw: bytes) -> list[str]:
    """Return how `uuid` and `secrets` write what they drew, always in the same order."""
    written = [draw.hex(), base64.urlsafe_b64encode(draw).rstrip(b"=").decode()]
    if len(draw) == 16:  # noqa: PLR2004 - a UUID's bytes
        written += [str(uuid.UUID(bytes=draw, version=4)), uuid.UUID(bytes=draw, version=4).hex]
    return written


def drawn_in(text: str, draws: Mapping[str, bytes]) -> set[bytes]:
    """Return which draws a text contains; the time does not grow with their number.

    Args:
        text: what is searched.
        draws: each draw, by all its spellings.
    """
    found = {draws[run] for run in _RUN.findall(text) if run in draws}
    runs = _HEXADECIMAL.findall(text)  # also with something before or after a draw
    lengths = {len(spelling) for spelling in draws} if runs else ()
    for run in runs:
        parts = (run[at : at + size] for size in lengths for at in range(len(run) - size + 1))
        found |= {draws[part] for part in parts if part in draws}
    return found


class Identities:
    """The identities of this process, and where they are kept."""

    def __init__(self) -> None:
        self._draws: set[bytes] = set()
        self._originals: list[tuple[Any, str, Any]] = []
        self._places: dict[bytes, list[tuple[str, Assign]]] = defaultdict(list)
        self._models: list[Any] = []

    def watch(self) -> None:
        """Note what imports draw until `find` is called. Idempotent."""
        if self._originals:
            return
        self._replace(os, "urandom", lambda drawn: drawn)
        self._replace(random, "_urandom", lambda drawn: drawn)
        with contextlib.suppress(ImportError):
            fast: Any = importlib.import_module("fastuuid")
            self._replace(fast, "uuid4", lambda drawn: uuid.UUID(str(drawn)).bytes)

    def _replace(self, owner: Any, name: str, as_bytes: Callable[[Any], bytes]) -> None:
        original = getattr(owner, name)

        def noting(*arguments: Any) -> Any:
            drawn = original(*arguments)
            if self._originals and importing(sys._getframe(1)):
                self._draws.add(as_bytes(drawn))
            return drawn

        self._originals.append((owner, name, original))
        setattr(owner, name, noting)

    def stop(self) -> None:
        """Stop noting. Idempotent."""
        while self._originals:
            setattr(*self._originals.pop())

    def forget(self) -> None:
        """Forget the places, which would be found as holders themselves."""
        self._places.clear()

    def find(self, objects: list[Any]) -> None:
        """Remember every place that holds an identity.

        One that cannot be replaced everywhere, because it is also a key, say, stays as it is.

        Args:
            objects: all objects of this process that may hold one.
        """
        self.stop()
        draws = {text: draw for draw in self._draws for text in spellings(draw) if _long(draw)}
        if not draws:
            return
        fixed, fields = set(), []
        for holder, value, drawn in _texts(objects, draws):
            places = assignments(holder, value)
            for draw in drawn:
                self._places[draw] += [(value, assign) for assign in places]
                if type(holder).__module__ == "pydantic.fields":
                    fields.append(holder)
                elif not places and not type(holder).__module__.startswith("pydantic_core"):
                    fixed.add(draw)
        for draw in fixed:
            del self._places[draw]
        self._models = _models_with(fields, objects) if fields else []

    def renew(self) -> None:
        """Put a new value wherever there was one, the same where it was the same."""
        for draw, places in self._places.items():
            fresh = os.urandom(len(draw))
            pairs = list(zip(spellings(draw), spellings(fresh), strict=True))
            for value, assign in places:
                renewed = value
                for old, new in pairs:
                    renewed = renewed.replace(old, new)
                assign(renewed)
        for model in self._models:
            model.model_rebuild(force=True)


def _long(draw: bytes) -> bool:
    return len(draw) >= SHORTEST_DRAW


def _texts(objects: list[Any], draws: Mapping[str, bytes]) -> Iterator[tuple[Any, str, set[bytes]]]:
    """Return what holds a text with a draw in it, the text, and the draws."""
    holders, texts = _reachable(objects)
    known: dict[str, set[bytes]] = {}
    for some in _chunks([text for text in texts if len(text) <= LONGEST_TEXT]):
        if drawn_in("\n".join(some), draws):
            known |= {text: drawn for text in some if (drawn := drawn_in(text, draws))}
    for some in _chunks(holders):
        if [held for held in gc.get_referents(*some) if type(held) is str and held in known]:
            for holder in some:
                for held in gc.get_referents(holder):
                    if type(held) is str and held in known:
                        yield holder, held, known[held]


def _reachable(objects: list[Any]) -> tuple[list[Any], set[str]]:
    """Return all that may hold a text, and all texts.

    The garbage collector does not list dictionaries and tuples of mere texts and numbers.
    """
    holders, texts, seen = list(objects), set[str](), set[int]()
    while objects:
        unlisted = []
        for some in _chunks(objects):
            referents = gc.get_referents(*some)
            texts.update([held for held in referents if type(held) is str])
            unlisted += [held for held in referents if type(held) in _UNLISTED]
        objects = [held for held in unlisted if not gc.is_tracked(held) and id(held) not in seen]
        seen |= {id(held) for held in objects}
        holders += objects
    return holders, texts


def _chunks(things: list[Any]) -> Iterator[list[Any]]:
    return (things[at : at + AT_ONCE] for at in range(0, len(things), AT_ONCE))


def assignments(holder: Any, value: str) -> list[Assign]:
    """Return functions that replace a value where it is held; none where that cannot be done."""
    if isinstance(holder, dict):
        keys = [key for key, held in holder.items() if held is value]
        owner = _class_of(holder)
        if owner is not None:  # its cache of attributes must notice
            return [partial(setattr, owner, key) for key in keys]
        return [partial(holder.__setitem__, key) for key in keys]
    if isinstance(holder, list):
        return [partial(holder.__setitem__, at) for at, held in enumerate(holder) if held is value]
    if isinstance(holder, tuple):
        return [
            partial(_set_default, function, at)
            for function in gc.get_referrers(holder)
            if isinstance(function, FunctionType) and function.__defaults__ is holder
            for at, held in enumerate(holder)
            if held is value
        ]
    if isinstance(holder, CellType):
        return [partial(setattr, holder, "cell_contents")]
    return [
        partial(object.__setattr__, holder, name)
        for name in _attribute_names(holder)
        if getattr(holder, name, None) is value
    ]


def _class_of(namespace: dict[Any, Any]) -> type | None:
    if "__module__" not in namespace:
        return None
    return next((owner for owner in gc.get_referrers(namespace) if isinstance(owner, type)), None)


def _attribute_names(holder: Any) -> set[str]:
    slots = {
        name
        for kind in type(holder).__mro__
        for name, member in vars(kind).items()
        if type(member).__name__ == "member_descriptor"
    }
    return slots | set(getattr(holder, "__dict__", ()))


def _set_default(function: FunctionType, at: int, value: str) -> None:
    defaults = function.__defaults__ or ()
    function.__defaults__ = (*defaults[:at], value, *defaults[at + 1 :])


def _models_with(fields: list[Any], objects: list[Any]) -> list[Any]:
    """Return the pydantic models that have compiled a field's default into their validator."""
    wanted = {id(field) for field in fields}
    return [
        kind
        for kind in objects
        if isinstance(kind, type)
        and any(id(field) in wanted for field in vars(kind).get("__pydantic_fields__", {}).values())
    ]
