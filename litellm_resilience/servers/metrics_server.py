"""The process that LiteLLM serves its metrics from (`--prometheus_metrics_port`), at an upgrade.

It holds a port of its own, which two proxies cannot have at once. The old proxy's ends when the new
one takes over; until then, the new one's waits. Run as a program, this module waits for the port
and then becomes LiteLLM's program (litellm/proxy/prometheus_metrics_server.py, 1.101.0 and later).
"""

from __future__ import annotations

import atexit
import importlib
import os
import runpy
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from litellm_resilience.repairs.base import require_parameters
from litellm_resilience.supervisor import takeover

if TYPE_CHECKING:
    from collections.abc import Callable

    from litellm_resilience.repairs.base import Changes

THEIRS = "litellm.proxy.prometheus_metrics_server"
LOOK_INTERVAL = 0.1
"""Seconds after which it is looked again whether the port is free."""


def hand_down(changes: Changes) -> None:
    """Have the port pass from one proxy to the next.

    Args:
        changes: where to note what is replaced.

    Raises:
        ImportError: this LiteLLM has no such process.
        IncompatibleError: what starts it is not as it was known to be.
    """
    theirs = importlib.import_module(THEIRS)
    original: Callable[..., subprocess.Popen[bytes]] = theirs.start_metrics_server_process
    require_parameters(original, "host", "port", "multiproc_dir")

    def start(host: str, port: int, multiproc_dir: str) -> subprocess.Popen[bytes]:
        begin = original if takeover.given() is None else _start_later
        process = begin(host=host, port=port, multiproc_dir=multiproc_dir)
        takeover.at_hand_over(process.terminate)
        return process

    changes.replace(theirs, "start_metrics_server_process", start)


def _start_later(**options: Any) -> subprocess.Popen[bytes]:
    given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    process = subprocess.Popen([sys.executable, "-m", __name__, *given])  # noqa: S603
    atexit.register(process.terminate)
    return process


def wait_for_port(host: str, port: int, wanted: Callable[[], bool]) -> bool:
    """Wait until nobody listens at an address.

    Args:
        host: name or number of an interface.
        port: its TCP port.
        wanted: says whether to wait on.

    Returns:
        Whether the address is free.
    """
    (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    while wanted():
        with socket.socket(family, kind, protocol) as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind(address)
            except OSError:
                time.sleep(LOOK_INTERVAL)
            else:
                return True
    return False


def main(arguments: list[str]) -> None:
    """Wait for the port while the proxy lives, then serve LiteLLM's metrics.

    Args:
        arguments: as LiteLLM's program takes them.
    """
    parent = os.getppid()
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    host, port = options["--host"], int(options["--port"])
    if wait_for_port(host, port, lambda: os.getppid() == parent):
        runpy.run_module(THEIRS, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
