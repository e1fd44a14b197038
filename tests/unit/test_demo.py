"""What the demo says and returns of what it has observed."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import pytest
from pytest_mock import MockerFixture

from litellm_resilience.demo import __main__ as demo
from litellm_resilience.demo import act
from litellm_resilience.demo.console import Console, Progress
from litellm_resilience.demo.proxy import ProxyError
from litellm_resilience.demo.summary import Summary, table

GOOD = Summary(20.0, 500, {}, 25.0, {"p50": 0.1, "p99": 0.2}, 0, recycled=9, records=500)


def test_the_verdict_is_good_if_workers_were_recycled_and_nothing_was_lost() -> None:
    assert GOOD.verdict("x") == (
        "x: 0 of 500 requests and 0 records lost while workers were recycled 9 times."
    )
    killed = replace(GOOD, killed_requests=1, killed_records=2)
    assert killed.good
    assert "the SIGKILL cost 1 request and 2 records" in killed.verdict("x")


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ({"failures": {"reset": 1, "timeout": 2}}, "3 of 500 requests failed"),
        ({"records_missing": 1}, "1 record never arrived"),
        ({"records_twice": 4}, "4 records arrived twice"),
        ({"exit_status": 0}, "the proxy ended"),
        ({"recycled": 0}, "no worker was recycled"),
        ({"recycled": 1, "records_twice": 1}, "while workers were recycled once"),
    ],
)
def test_the_verdict_is_bad_for_any_loss_or_if_nothing_was_recycled(
    loss: dict[str, object], said: str, mocker: MockerFixture
) -> None:
    summary = replace(GOOD, **loss)  # type: ignore[arg-type]
    assert not summary.good
    assert said in summary.verdict("x")
    mocker.patch.object(demo, "_show", return_value=summary)
    assert demo.main([]) == 1


def test_plain_litellm_is_shown_beside_ours_but_does_not_decide(
    mocker: MockerFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = replace(GOOD, failures={"reset": 7}, latency={"p50": math.nan, "p99": math.nan})
    mocker.patch.object(demo, "_show", side_effect=[bad, GOOD])
    assert demo.main(["--compare"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["litellm", "litellm-resilient"]
    assert lines[3].split() == ["failed", "7", "(reset", "7)", "0"]
    assert [line.split(":")[0] for line in lines[-2:]] == ["litellm", "litellm-resilient"]


def test_the_figures_are_json_without_nan(
    mocker: MockerFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    mocker.patch.object(demo, "_show", return_value=replace(GOOD, latency={"p50": math.nan}))
    assert demo.main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["litellm-resilient"]["latency"] == {"p50": None}
    assert found["litellm-resilient"]["good"] is True


def test_a_proxy_that_never_serves_is_an_error(mocker: MockerFixture) -> None:
    mocker.patch.object(demo, "_show", side_effect=ProxyError("no answer"))
    assert demo.main([]) == 1


def test_the_table_has_a_column_for_each() -> None:
    rows = table({"a": GOOD, "b": GOOD}).splitlines()
    assert rows[0].split() == ["a", "b"]
    assert all(row.count("500 in 20 s") == 2 for row in rows if row.startswith("requests "))


def test_lines_of_our_log_are_what_is_shown() -> None:
    """As the journal writes them, in LiteLLM's format."""
    log = (
        "10:00 - LiteLLM Proxy:INFO: journal.py:1 - Worker 1 (pid 7) ready after 0.10 s\n"
        "10:00 - LiteLLM Proxy:INFO: journal.py:1 - Worker 1 (pid 7) draining, replaced by worker "
        "3 (pid 9)\n"
        "10:00 - LiteLLM Proxy:ERROR: journal.py:1 - Worker 2 (pid 8) died: killed; replacing it\n"
    )
    found = act.EVENT.findall(log)
    assert found == [
        "Worker 1 (pid 7) draining, replaced by worker 3 (pid 9)",
        "Worker 2 (pid 8) died: killed; replacing it",
    ]
    assert [act.RECYCLED in event for event in found] == [True, False]


def test_progress_is_for_terminals_and_lines_replace_it() -> None:
    progress = Progress(elapsed=1.0, rate=20, failures=0, workers=1)
    pipe = io.StringIO()
    Console(pipe).progress(progress)
    assert not pipe.getvalue()

    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    console = Console(terminal)
    console.progress(progress)
    console.message("line")
    assert "1 worker serves" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[2Kline\n")


@pytest.mark.parametrize(
    ("installed", "jitter"),
    [
        ("1.81.12", []),
        ("1.89.7", []),
        ("1.90.0", ["--max_requests_before_restart_jitter", "10"]),
        ("1.109.1", ["--max_requests_before_restart_jitter", "10"]),
        ("2.0.0rc1", ["--max_requests_before_restart_jitter", "10"]),
    ],
)
def test_plain_litellm_gets_its_own_jitter_where_it_has_one(
    installed: str, jitter: list[str], mocker: MockerFixture
) -> None:
    mocker.patch.object(demo, "version", return_value=installed)
    args = demo._parser().parse_args([])
    assert demo._options(demo.PLAIN, args)[4:] == jitter
    assert "--max_requests_jitter" in demo._options(demo.OURS, args)
