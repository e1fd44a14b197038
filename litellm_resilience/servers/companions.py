"""The processes that LiteLLM's command starts beside its workers, at an upgrade in place.

Each holds a port of its own, which two proxies cannot have at once.

- The one that serves metrics (`--prometheus_metrics_port`,
  litellm/proxy/prometheus_metrics_server.py, 1.101.0 and later): the old proxy's ends when the new
  one takes over; until then, the new one's waits. Run as a program, this module imports LiteLLM's,
  waits for the port, and then serves.
- pgbouncer (`LITELLM_PGBOUNCER_ENABLED`, litellm/proxy/db/pgbouncer.py): workers that drain need
  that of the old proxy until they end, and only workers need to know its port. That of the new one
  gets another port.
"""

from __future__ import annotations

import atexit
import importlib
import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from litellm_resilience.repairs.base import IncompatibleError, require_parameters
from litellm_resilience.supervisor import takeover

if TYPE_CHECKING:
    from collections.abc import Callable

    from litellm_resilience.repairs.base import Changes

THEIRS = "litellm.proxy.prometheus_metrics_server"
STARTS_PGBOUNCER = "start_in_container_pgbouncer"
PGBOUNCER_HOST = "127.0.0.1"
COLLECTOR = "LITELLM_COLLECTOR_ENABLED"
"""LiteLLM's collector, in a container beside the proxy's, may know pgbouncer's port as well."""
FALSE = frozenset({"", "0", "f", "false", "n", "no", "off"})
LOOK_INTERVAL = 0.1
"""Seconds after which it is looked again whether the port is free."""


def hand_down_metrics(changes: Changes) -> None:
    """Have the port of LiteLLM's metrics pass from one proxy to the next.

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
    command = [sys.executable, "-m", __name__, str(os.getpid()), *given]
    process = subprocess.Popen(command)  # noqa: S603
    atexit.register(process.terminate)
    return process


def move_pgbouncer(changes: Changes) -> None:
    """Let the new proxy's pgbouncer listen on another port while the old one's has its own.

    With LiteLLM's collector it does not, and the upgrade fails: the collector would be left
    without its database.

    Args:
        changes: where to note what is replaced.

    Raises:
        ImportError: LiteLLM's proxy is not installed.
        IncompatibleError: this LiteLLM starts no pgbouncer, or in another way.
    """
    command = importlib.import_module("litellm.proxy.proxy_cli")
    original: Callable[..., Any] | None = getattr(command, STARTS_PGBOUNCER, None)
    if original is None:
        raise IncompatibleError("this LiteLLM starts no pgbouncer")
    require_parameters(original, "settings", "upstream_url")

    def start(settings: Any, *args: Any, **kwargs: Any) -> Any:
        collector = os.environ.get(COLLECTOR, "").lower() not in FALSE
        if takeover.given() and not collector and not is_free(PGBOUNCER_HOST, settings.port):
            with socket.create_server((PGBOUNCER_HOST, 0)) as found:
                port = found.getsockname()[1]
            settings = settings.model_copy(update={"port": port})
        return original(settings, *args, **kwargs)

    changes.replace(command, STARTS_PGBOUNCER, start)


def is_free(host: str, port: int) -> bool:
    """Say whether nobody listens at an address.

    Args:
        host: name or number of an interface.
        port: its TCP port.
    """
    (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    with socket.socket(family, kind, protocol) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind(address)
        except OSError:
            return False
        return True


def wait_for_port(host: str, port: int, wanted: Callable[[], bool]) -> bool:
    """Wait until nobody listens at an address.

    Args:
        host: name or number of an interface.
        port: its TCP port.
        wanted: says whether to wait on.

    Returns:
        Whether the address is free.
    """
    while wanted():
        if is_free(host, port):
            return True
        time.sleep(LOOK_INTERVAL)
    return False


def main(parent: int, arguments: list[str]) -> None:
    """Wait for the port while the proxy lives, then serve LiteLLM's metrics.

    Args:
        parent: process id of the proxy.
        arguments: as LiteLLM's program takes them.
    """
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    theirs = importlib.import_module(THEIRS)
    if wait_for_port(options["--host"], int(options["--port"]), lambda: os.getppid() == parent):
        theirs.main(arguments)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
