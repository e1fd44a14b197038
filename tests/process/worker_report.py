"""What a worker finds in itself: printed as JSON by real processes, compared by a test."""

from __future__ import annotations

import gc
import http.client
import json
import os
import random
import socket
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

LARGEST = 500
"""Entries of a container; the price map has thousands, all of them text from a file."""
SEED = 5


class Drawn:
    """What a module of the user's may have made of its own when it was imported."""

    def __init__(self, provider: tuple[str, int]) -> None:
        self.generators = [random.Random(), random.Random(SEED)]
        if "numpy" in sys.modules:
            numpy: Any = sys.modules["numpy"]
            self.generators += [numpy.random.default_rng(), numpy.random.default_rng(SEED)]
        self.connection = http.client.HTTPConnection(*provider)
        self.ask("before the fork")

    def ask(self, what: str) -> str:
        """Return what the provider answers over the kept connection, or over a new one."""
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": what}]})
        headers = {"Content-Type": "application/json"}
        try:
            self.connection.request("POST", "/v1/chat/completions", body, headers)
            answer = self.connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError):
            self.connection.close()
            return self.ask(what)
        return answer.read().decode()

    def report(self) -> dict[str, Any]:
        """Return all that two workers may have in common or not."""
        before = _connected()
        self.ask(f"worker {os.getpid()}")
        return {
            "texts": texts(),
            "numbers": [float(generator.random()) for generator in self.generators],
            "others": [hash(g.getstate()) for g in gc.get_objects() if _is_generator(g)],
            "inherited connections": before,
            "connections": _connected(),
        }


def _is_generator(thing: Any) -> bool:
    return issubclass(type(thing), random.Random) and type(thing) is not random.SystemRandom


def _connected() -> list[int]:
    """Return the inodes of sockets that another process is connected to."""
    inodes = []
    for path in list(Path("/proc/self/fd").iterdir()):
        with suppress(OSError), socket.socket(fileno=os.dup(int(path.name))) as found:
            if found.getpeername():
                inodes.append(os.fstat(found.fileno()).st_ino)
    return inodes


def texts() -> dict[str, str]:
    """Return each text that LiteLLM's modules, their classes or instances hold, by its path."""
    found = {}
    seen: set[int] = set()
    modules = sorted(name for name in sys.modules if _is_litellm(name))
    queue = deque((f"{m}.{name}", x) for m in modules for name, x in vars(sys.modules[m]).items())
    while queue:
        path, thing = queue.popleft()
        if isinstance(thing, str):
            found[path] = thing
        elif id(thing) not in seen and not isinstance(thing, ModuleType):
            seen.add(id(thing))
            queue.extend((f"{path}.{name}", held) for name, held in _held(thing))
    return found


def _is_litellm(module: Any) -> bool:
    return str(module).split(".")[0] in {"litellm", "litellm_enterprise", "drawn_at_import"}


def _held(thing: Any) -> list[tuple[Any, Any]]:
    if isinstance(thing, dict):
        return list(thing.items()) if len(thing) <= LARGEST else []
    if isinstance(thing, list | tuple):
        return list(enumerate(thing)) if len(thing) <= LARGEST else []
    if isinstance(thing, FunctionType):
        return list(enumerate(thing.__defaults__ or ()))
    owner = thing if isinstance(thing, type) else type(thing)
    if _is_litellm(owner.__module__) or owner.__module__ == "pydantic.fields":
        slots = [s for k in owner.__mro__ for s in getattr(k, "__slots__", ()) if s != "__dict__"]
        held = dict(getattr(thing, "__dict__", {}))
        return [*held.items(), *((s, getattr(thing, s, None)) for s in slots if s not in held)]
    return []
