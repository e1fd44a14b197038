"""Faults on demand inside a proxy worker, as a LiteLLM callback.

A request whose ``user`` field is one of the values below causes the fault in whichever worker gets
the request, before that request is routed; the request itself then goes on as usual, if there still
is a worker. ``=`` and a number after the value says how much of it: seconds, or MiB. Each fault
writes one line starting with ``demo:`` to standard error before it is caused.

A file ``startup-fault`` beside this one says what happens to a worker that starts: see `STARTUP`.

Older LiteLLM (1.89 for one) loads callbacks only from a file beside the config file, so
`litellm_resilience.demo.proxy.Proxy` copies this file there. It must therefore not import anything
from this package.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib
import os
import resource
import signal
import sys
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any

CLOSE_SHARED_SESSION = "demo:close-shared-session"
"""With a number: close LiteLLM's shared session that often, and have it remade as requests do.

Without one it is closed once, by `litellm_resilience.demo.close_session`."""

CLEAR_CLIENT_CACHE = "demo:clear-client-cache"
"""Empty LiteLLM's cache of provider clients at once, without closing them (``flush_cache``)."""

EVICT_CLIENTS = "demo:evict-clients"
"""Remove every entry of that cache the way LiteLLM does when an entry expires."""

FAIL_SESSIONS = "demo:fail-sessions"
"""Let LiteLLM's initialiser of the shared session fail, for so many seconds."""

SLOW_SESSIONS = "demo:slow-sessions"
"""Let that initialiser take so many seconds from now on."""

BLOCK_PYTHON = "demo:block-python"
"""Block the event loop in Python code, for so many seconds."""

BLOCK_C = "demo:block-c"
"""Block the event loop in C code that keeps the interpreter's lock, for so many seconds."""

HOARD = "demo:hoard"
"""Fill so many MiB of memory and keep them."""

EXHAUST_MEMORY = "demo:exhaust-memory"
"""Allow the process no more address space than it has now and so many MiB, and use them up."""

IGNORE_SIGTERM = "demo:ignore-sigterm"
"""Ignore SIGTERM from now on."""

COLLECT_GARBAGE = "demo:collect-garbage"
"""Collect garbage in the middle of setting context variables, so many times."""

EXIT = "demo:exit"
"""End the process at once, with status 3."""

STARTUP = ("raise", "exit", "hang")
"""What a worker that starts does: raise an error, end with status 3, or never get ready."""
STARTUP_FILE = "startup-fault"

_hoard: list[bytearray] = []
_variables = [ContextVar[object](f"demo-{number}") for number in range(40)]
_tasks: list[asyncio.Task[None]] = []


class _Creation:
    """What becomes of the next shared sessions."""

    intercepted = False
    fails_until = 0.0
    seconds = 0.0


_creation = _Creation()


def _report(message: str) -> None:
    print(f"demo: {message} in pid {os.getpid()}", file=sys.stderr, flush=True)


async def _close_each(times: int) -> None:
    """Close it, and ask for it the way a request does; both in turns with what else goes on."""
    routing = importlib.import_module("litellm.proxy.route_llm_request")
    server = importlib.import_module("litellm.proxy.proxy_server")
    for _ in range(times):
        session = server.shared_aiohttp_session
        if session is not None:
            await session.close()
            _report(f"closed shared session (ID: {id(session)})")
        await asyncio.sleep(0.001)
        attached = routing.add_shared_session_to_data({})
        if attached is not None:
            await attached


def clear_client_cache() -> None:
    """Empty LiteLLM's client cache of this process."""
    cache = importlib.import_module("litellm").in_memory_llm_clients_cache
    count = len(cache.cache_dict)
    cache.flush_cache()
    _report(f"cleared client cache ({count} entries)")


def evict_clients() -> None:
    """Evict every entry of LiteLLM's client cache of this process."""
    cache = importlib.import_module("litellm").in_memory_llm_clients_cache
    keys = list(cache.cache_dict)
    for key in keys:
        cache._remove_key(key)
    _report(f"evicted clients ({len(keys)} entries)")


def fail_sessions(seconds: float) -> None:
    """Let no shared session be made for a while, as LiteLLM reports it: with None."""
    _intercept_creation()
    _creation.fails_until = time.monotonic() + seconds
    _report("shared sessions cannot be made")


def slow_sessions(seconds: float) -> None:
    """Let each shared session take a while to be made."""
    _intercept_creation()
    _creation.seconds = seconds
    _report("shared sessions are made slowly")


def _intercept_creation() -> None:
    """Have LiteLLM's initialiser heed `_creation`, whoever calls it, by any of its names."""
    if _creation.intercepted:
        return
    _creation.intercepted = True
    proxy_server = sys.modules["litellm.proxy.proxy_server"]
    for name in ("initialize_shared_aiohttp_session", "_initialize_shared_aiohttp_session"):
        if hasattr(proxy_server, name):
            setattr(proxy_server, name, _intercepted(getattr(proxy_server, name)))


def _intercepted(create: Any) -> Any:
    async def initialise(*args: Any, **kwargs: Any) -> Any:
        if _creation.seconds:
            await asyncio.sleep(_creation.seconds)
        if time.monotonic() < _creation.fails_until:
            _report("no shared session was made")
            return None
        return await create(*args, **kwargs)

    return initialise


def block_python(seconds: float) -> None:
    """Keep the event loop busy."""
    _report("blocks in Python")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def block_c(seconds: float) -> None:
    """Sleep without giving up the interpreter's lock, so that no thread runs either."""
    _report("blocks in C")
    left = int(seconds)
    # A signal ends a sleep early.
    while left:
        left = ctypes.PyDLL(None).sleep(left)


def hoard(mebibytes: float) -> None:
    """Fill memory and keep it."""
    _report("hoards")
    _fill(int(mebibytes))


def _fill(mebibytes: int) -> None:
    _hoard.append(bytearray(b"x") * (mebibytes << 20))


def exhaust_memory(mebibytes: float) -> None:
    """Use up what the process may have; MemoryError is for the caller."""
    _report("exhausts its memory")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + (int(mebibytes) << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    while True:
        _fill(1)


def ignore_sigterm(_: float) -> None:
    """Ignore the signal that asks for an orderly end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _report("ignores SIGTERM")


class _Abandoned:
    """Garbage whose finaliser sets context variables, and uses whatever memory that frees."""

    def __init__(self) -> None:
        self.cycle = self

    def __del__(self) -> None:
        for variable in _variables:
            variable.set(object())
        self.memory = [b"\xff" * size for size in range(1, 480, 16) for _ in range(40)]


def collect_garbage(times: float) -> None:
    """Run the garbage collector inside `ContextVar.set`, as Python up to 3.11 does by chance."""
    _report("collects garbage")
    usual = gc.get_threshold()
    for variable in _variables:
        variable.set(object())
    for number in range(int(times)):
        _Abandoned()
        # Which of the next few allocations it is that starts the collector.
        gc.set_threshold(1 + number % 5)
        _variables[number % len(_variables)].set(object())
        gc.set_threshold(*usual)


def end(_: float) -> None:
    """End without any tidying."""
    _report("ends")
    os._exit(3)


_PLAIN = {CLEAR_CLIENT_CACHE: clear_client_cache, EVICT_CLIENTS: evict_clients}
_MEASURED = {
    FAIL_SESSIONS: fail_sessions,
    SLOW_SESSIONS: slow_sessions,
    BLOCK_PYTHON: block_python,
    BLOCK_C: block_c,
    HOARD: hoard,
    EXHAUST_MEMORY: exhaust_memory,
    IGNORE_SIGTERM: ignore_sigterm,
    COLLECT_GARBAGE: collect_garbage,
    EXIT: end,
}


def cause(fault: object) -> None:
    """Cause the fault named by one of the constants; ignore anything else."""
    name, _, measure = fault.partition("=") if isinstance(fault, str) else ("", "", "")
    if name == CLOSE_SHARED_SESSION and measure:
        _tasks.append(asyncio.create_task(_close_each(int(measure))))
    elif name in _PLAIN:
        _PLAIN[name]()
    elif name in _MEASURED:
        _MEASURED[name](float(measure or 0))


def fault_at_startup() -> None:
    """Do what `STARTUP_FILE` says, if it is there."""
    path = Path(__file__).with_name(STARTUP_FILE)
    fault = path.read_text().strip() if path.exists() else ""
    if not fault:
        return
    _report(f"start-up fault {fault!r}")
    if fault == "raise":
        raise RuntimeError("broken on purpose")
    if fault == "exit":
        os._exit(3)
    time.sleep(3600)


def make_handler() -> Any:
    """A LiteLLM ``CustomLogger`` that causes the fault a request asks for.

    Raises:
        ImportError: LiteLLM is not installed.
    """
    base: Any = importlib.import_module("litellm.integrations.custom_logger").CustomLogger

    class SabotageHandler(base):  # type: ignore[misc]
        async def async_pre_call_hook(
            self,
            user_api_key_dict: Any,
            cache: Any,
            data: dict[str, Any],
            call_type: str,
        ) -> None:
            cause(data.get("user"))

    return SabotageHandler()


def __getattr__(name: str) -> Any:
    # Made when LiteLLM asks for it, so that others can import the constants without LiteLLM.
    if name == "handler":
        fault_at_startup()
        return make_handler()
    raise AttributeError(name)
