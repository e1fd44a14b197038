"""What a supervisor serves beside requests: its state, its metrics and its health."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from litellm_resilience.status import channel
from litellm_resilience.status.document import document
from litellm_resilience.status.exporter import Exporter, Offer

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from uvicorn.config import Config

    from litellm_resilience.supervisor.journal import Journal
    from litellm_resilience.supervisor.launch import Launcher
    from litellm_resilience.supervisor.loop import Service
    from litellm_resilience.supervisor.scoreboard import Scoreboard


@dataclass(frozen=True)
class Visibility:
    """Where a supervisor can be asked.

    Args:
        status_socket: path of its Unix socket; None for one named after the port.
        metrics_port: of its Prometheus metrics and its health; None for none.
        health_port: of its health; None for none.
        drain_delay: seconds from a request for `/drain` to the drain; None if there is no `/drain`.
    """

    status_socket: Path | None = None
    metrics_port: int | None = None
    health_port: int | None = None
    drain_delay: float | None = None


def services(
    visibility: Visibility,
    config: Config,
    launcher: Launcher,
    board: Scoreboard,
    *,
    perform: Callable[[Sequence[str], float], dict[str, Any]],
    journal: Journal,
    log: logging.Logger,
    others: Callable[[], list[Service]] = list,
) -> list[Service]:
    """Return what is to be served; what cannot be is said in a warning and left out.

    Args:
        visibility: where.
        config: of the server, whose address metrics and health share.
        launcher: how processes are started.
        board: what to show.
        perform: does a command, given its words and the supervisor's time; returns the answer.
        journal: what has happened.
        log: where the paths are said.
        others: returns what is done besides.
    """
    found = others()
    describe = partial(document, board, journal, os.getpid(), config.port)
    if os.name == "posix":
        try:
            path = visibility.status_socket or channel.default_path(str(config.port))
            found.append(channel.SupervisorSocket(path, describe, perform))
            log.info("Status for litellm-resilient --status at %s", path)
        except (channel.UnavailableError, OSError) as error:
            log.warning("No status for litellm-resilient --status: %s", error)
    offer = Offer(
        config.host, visibility.metrics_port, visibility.health_port, visibility.drain_delay
    )
    if offer.ports:
        found.append(Exporter(launcher, board, offer, partial(perform, ["drain"]), log))
    return found
