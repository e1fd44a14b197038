"""What a supervisor serves beside requests: its state and its metrics."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from litellm_resilience.status import channel
from litellm_resilience.status.document import document
from litellm_resilience.status.exporter import MetricsExporter

if TYPE_CHECKING:
    import logging
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
        metrics_port: of its Prometheus metrics; None for none.
    """

    status_socket: Path | None = None
    metrics_port: int | None = None


def services(
    visibility: Visibility,
    config: Config,
    launcher: Launcher,
    board: Scoreboard,
    *,
    journal: Journal,
    log: logging.Logger,
) -> list[Service]:
    """Return what is to be served; what cannot be is said in a warning and left out.

    Args:
        visibility: where.
        config: of the server, whose address the metrics share.
        launcher: how processes are started.
        board: what to show.
        journal: what has happened.
        log: where the paths are said.
    """
    found: list[Service] = []
    describe = partial(document, board, journal, os.getpid())
    if os.name == "posix":
        try:
            path = visibility.status_socket or channel.default_path(str(config.port))
            found.append(channel.StatusSocket(path, describe))
            log.info("Status for litellm-resilient --status at %s", path)
        except (channel.UnavailableError, OSError) as error:
            log.warning("No status for litellm-resilient --status: %s", error)
    if visibility.metrics_port is not None:
        host, port = config.host, visibility.metrics_port
        found.append(MetricsExporter(launcher, board, host, port, log))
        log.info("Metrics at http://%s:%d/metrics", host, port)
    return found
