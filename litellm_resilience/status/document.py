"""The state of a supervisor and its workers as plain data."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from litellm_resilience.status import versions
from litellm_resilience.supervisor.policy import SERVING

if TYPE_CHECKING:
    from litellm_resilience.supervisor.journal import Journal
    from litellm_resilience.supervisor.scoreboard import Row, Scoreboard


def document(
    board: Scoreboard, journal: Journal, pid: int, port: int, now: float
) -> dict[str, Any]:
    """Return everything there is to know, ready for JSON.

    Args:
        board: where supervisor and workers write.
        journal: what it remembers.
        pid: the supervisor's.
        port: that it serves.
        now: seconds of the monotonic clock, as are all times given.
    """
    totals = board.totals
    return {
        "supervisor": {
            "pid": pid,
            "port": port,
            "target": totals.target,
            "start_method": totals.start_method,
            "start_obstacle": journal.obstacle,
            "template_pid": totals.template_pid or None,
            "versions": versions.report(),
        },
        "workers": [worker(slot, row, now) for slot, row in board.living()],
        "totals": {
            **board.counted(),
            "started": totals.started,
            "boot_failures": totals.boot_failures,
            "recycled": totals.recycled_by_reason,
            "died": totals.died_by_cause,
            "records_lost": board.lost_records(),
            "event_loop_blocks": board.blocks(),
        },
        "growth": [
            {"seconds_ago": round(max(0.0, now - at), 1), "worker": name, **asdict(growth)}
            for at, name, growth in journal.growth
        ],
        "events": [
            {"seconds_ago": round(max(0.0, now - at), 1), "event": text}
            for at, text in journal.recent
        ],
    }


def worker(slot: int, row: Row, now: float) -> dict[str, Any]:
    """Return what is known of one worker; times in seconds, memory in bytes.

    A row is shared with the worker, which may have overwritten it: a figure that is no number is 0.
    """
    state = row.state
    return {
        "slot": slot,
        "generation": row.generation,
        "number": row.number,
        "pid": row.pid,
        "state": None if state is None else state.value,
        "reason": row.reason.decode(errors="replace"),
        "age": round(_number(now - (row.ready_at or row.started_at)), 1),
        **row.own_counts,
        "request_limit": row.request_limit or None,
        "in_flight": row.in_flight,
        "records": row.records,
        "memory": row.memory,
        "event_loop_lag": round(_number(event_loop_lag(row, now)), 3),
        "session_generation": row.session_generation,
    }


def _number(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def event_loop_lag(row: Row, now: float) -> float:
    """Return how late a worker's event loop is, in seconds.

    The longest delay of the last seconds, or how long it has stood still by now: a blocked worker
    cannot write that down itself.
    """
    if row.state not in SERVING or not row.turned_at:
        return row.lag
    return max(row.lag, now - row.turned_at - NORMAL_LAG)


NORMAL_LAG = 0.5
"""Seconds without a turn that mean nothing yet: five turns of an idle loop."""
