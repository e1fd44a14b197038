"""Which worker sends a report to Slack."""

from __future__ import annotations

import multiprocessing
from types import SimpleNamespace
from typing import Any

import pytest
from pytest_mock import MockerFixture

import litellm_resilience
from litellm_resilience.repairs import reports
from litellm_resilience.supervisor import scoreboard
from litellm_resilience.supervisor.scoreboard import Scoreboard


class Slack:
    """LiteLLM's class for alerts, as each worker makes one, with what it has sent."""

    def __init__(self, mocker: MockerFixture) -> None:
        from litellm.integrations.prometheus_helpers import prometheus_api
        from litellm.integrations.SlackAlerting import slack_alerting
        from litellm.proxy.spend_tracking import spend_management_endpoints as spend

        self._alerting = slack_alerting.SlackAlerting
        self.sent: list[str] = []

        async def send_alert(_: Any, message: str, **__: Any) -> None:
            self.sent.append(message)

        async def fetched(**_: Any) -> Any:
            return [{"team_alias": "a", "total_spend": 1}], []

        async def fallbacks() -> str:
            return "none"

        mocker.patch.object(self._alerting, "send_alert", send_alert)
        mocker.patch.object(prometheus_api, "get_fallback_metric_from_prometheus", fallbacks)
        for name in ("get_spend_report_for_time_range", "_get_spend_report_for_time_range"):
            if hasattr(spend, name):
                mocker.patch.object(spend, name, fetched)

    def worker(self) -> Any:
        return self._alerting(alerting=["slack"])


@pytest.fixture
def slack(patched: SimpleNamespace, mocker: MockerFixture) -> Slack:
    return Slack(mocker)


@pytest.fixture
def board(mocker: MockerFixture) -> Scoreboard:
    """The scoreboard of a supervisor whose worker this process is."""
    board = Scoreboard.create(multiprocessing.get_context("fork"), 2)
    mocker.patch.object(scoreboard, "_entered", (board, board.claim()))
    return board


async def send(worker: Any, report: str) -> None:
    await getattr(worker, report)(*(["7d"] if report == reports.SPEND else []))


@pytest.mark.parametrize("report", [reports.SPEND, reports.FALLBACKS])
async def test_a_replacement_does_not_repeat_a_report(
    report: str, slack: Slack, board: Scoreboard
) -> None:
    for _ in range(3):
        await send(slack.worker(), report)
    assert len(slack.sent) == 1


async def test_each_report_is_sent(slack: Slack, board: Scoreboard) -> None:
    for report in (reports.SPEND, reports.FALLBACKS):
        await send(slack.worker(), report)
    assert len(slack.sent) == 2


@pytest.mark.parametrize(("hours", "sent"), [(6 * 24, 1), (7 * 24, 2)])
async def test_the_next_one_is_sent_when_its_period_is_over(
    hours: int, sent: int, slack: Slack, board: Scoreboard
) -> None:
    await send(slack.worker(), reports.SPEND)
    board.note.done_at[0] -= hours * 3600
    await send(slack.worker(), reports.SPEND)
    assert len(slack.sent) == sent


async def test_without_a_supervisor_litellm_decides(slack: Slack) -> None:
    for _ in range(2):
        await send(slack.worker(), reports.FALLBACKS)
    assert len(slack.sent) == 2


async def test_a_period_that_litellm_refuses_is_left_to_it(slack: Slack, board: Scoreboard) -> None:
    for _ in range(2):
        await slack.worker().send_weekly_spend_report("soon")
    assert slack.sent == []


def test_the_methods_are_put_back(slack: Slack) -> None:
    import sys

    alerting = sys.modules[reports.MODULE].SlackAlerting
    patched = vars(alerting)[reports.SPEND]
    litellm_resilience.uninstall()
    assert vars(alerting)[reports.SPEND] is patched.__wrapped__
