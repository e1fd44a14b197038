"""A report is sent once per period, not once per worker.

With `alerting`, LiteLLM sends the spend report a few minutes after a worker's start, and with
`PROMETHEUS_URL` the fallback statistics at once. Which report was sent it remembers in Redis, or,
without, in the worker alone.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any

from litellm_resilience.repairs.base import Outcome, PatchState, require_async
from litellm_resilience.supervisor import scoreboard

if TYPE_CHECKING:
    from collections.abc import Callable

    from litellm_resilience.repairs.base import Context

MODULE = "litellm.integrations.SlackAlerting.slack_alerting"
SPEND, FALLBACKS = "send_weekly_spend_report", "send_fallback_stats_from_prometheus"
DAY = 86_400.0
EARLINESS = 3600.0
"""How much sooner than a period the next report may come: its time of day is not the same."""


def apply(context: Context) -> Outcome:
    """Send each report from the first worker that wants to."""
    alerting = importlib.import_module(MODULE).SlackAlerting
    spend = require_async(alerting, SPEND, "self", "time_range")
    fallbacks = require_async(alerting, FALLBACKS, "self")
    context.changes.replace(alerting, SPEND, _once(spend, 0, _period))
    context.changes.replace(alerting, FALLBACKS, _once(fallbacks, 1, lambda *_: DAY))
    return Outcome(PatchState.APPLIED, "supervised workers send each report once per period")


def _once(send: Any, deed: int, period: Callable[..., float]) -> Any:
    @functools.wraps(send)
    async def sent(alerting: Any, *args: Any, **kwargs: Any) -> Any:
        entered = scoreboard.entered()
        interval = period(*args, **kwargs) - EARLINESS
        if entered is None or entered[0].note.is_due(deed, interval):
            return await send(alerting, *args, **kwargs)
        return None

    return sent


def _period(time_range: str = "7d") -> float:
    """Return a period such as ``7d`` in seconds; what is no number of days LiteLLM refuses."""
    days = time_range[:-1]
    return int(days) * DAY if days.isdecimal() else 0.0
