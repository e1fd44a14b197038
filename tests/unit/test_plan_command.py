"""`litellm-resilient --plan` as a user sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pytest_mock import MockerFixture

from litellm_resilience.command.entry import cli
from litellm_resilience.plan import boot, deploy, outlook, picture, terminal, wording
from litellm_resilience.plan.chart import Chart
from litellm_resilience.plan.timeline import Recycle, Timeline

PLAN = (
    *("--plan", "--num_workers", "2", "--max_requests_before_restart", "1000"),
    *("--rps", "40", "--boot_seconds", "12"),
)
FORBID_SERVERS = """
import sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"litellm", "uvicorn", "aiohttp", "matplotlib"}:
            raise AssertionError(f"{name} was imported")
sys.meta_path.insert(0, Forbid())
from litellm_resilience.command.entry import main
main()
"""


@pytest.fixture(autouse=True)
def _short(mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    mocker.patch.object(outlook, "MOST_RECYCLES", 50)
    mocker.patch.object(deploy, "SIMULATED_DEPLOYS", 100)
    monkeypatch.setenv("COLUMNS", "60")
    for name in ("NUM_WORKERS", "MAX_REQUESTS_BEFORE_RESTART", "MAX_REQUESTS_JITTER"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(cli, arguments, prog_name="litellm-resilient")


def planned(*arguments: str, **environment: str) -> dict[str, Any]:
    result = run(*PLAN, "--json", *arguments, **environment)
    assert result.exit_code == 0, result.output
    plan: dict[str, Any] = json.loads(result.stdout)
    return plan


def test_a_plan_imports_no_server() -> None:
    result = subprocess.run(
        [sys.executable, "-c", FORBID_SERVERS, *PLAN],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "litellm-resilient needs none." in result.stdout


def test_the_report() -> None:
    result = run(*PLAN, "--max_requests_jitter", "100", "--config", "config.yaml")
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert lines[:2] == [
        "2 workers, limit 1000 + 0 to 100 requests, 40 requests per second in all",
        "a worker boots in 12 s (given), a replacement of litellm-resilient in 0.3 s",
    ]
    assert "after a deploy 100 % (96.3 % to 100 %) never" in lines
    assert "workers at once in a pod 2 4" in lines
    assert "of them draining - 2" in lines
    text = " ".join(lines)
    assert "No jitter up to the limit keeps the chance for litellm at 1 %: with 1000" in text
    assert max(len(line) for line in result.output.splitlines()) <= 100
    for row in ("time between recycles", "recycles per day", "lost capacity", "nothing serves"):
        assert row in text


def test_a_plan_counts_workers_that_drain() -> None:
    """Streams of 200 s, a worker due every 25 s: at the cap workers serve on, and it is said."""
    few, many = (planned("--drain_seconds", "200", "--max_draining_workers", n) for n in "29")
    assert (few["ours"]["most_draining"], few["ours"]["most_workers"]) == (2, 4)
    assert 7 <= many["ours"]["most_draining"] <= 9
    assert few["ours"]["overshoot"]["value"] > 1000 > many["ours"]["overshoot"]["value"]
    assert few["ours"]["seconds_between"]["value"] == pytest.approx(100, rel=0.05)
    said = "Recycles are due faster than workers drain"
    assert said in run(*PLAN, "--drain_seconds", "200").output
    assert said not in run(*PLAN).output
    assert few["upstream"]["most_draining"] is None


def test_the_same_seed_gives_the_same_plan() -> None:
    assert planned("--max_requests_jitter", "50") == planned("--max_requests_jitter", "50")
    other = planned("--max_requests_jitter", "50", "--seed", "1")
    assert other["upstream"] != planned("--max_requests_jitter", "50")["upstream"]


def test_ours_loses_nothing_in_a_plan() -> None:
    ours = planned()["ours"]
    for figure in ("after_deploy", "long_run", "together", "down_seconds", "silent_seconds"):
        assert ours[figure] == {"value": 0, "low": 0, "high": 0}


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (["--num-workers=3"], {}, {"workers": 2}),
        (["--num_workers=3"], {}, {"workers": 3}),
        (["--max-requests-jitter", "7"], {}, {"jitter": 7}),
        (["--max_requests_before_restart_jitter", "7"], {}, {"jitter": 7}),
        ([], {"MAX_REQUESTS_JITTER": "7"}, {"jitter": 7}),
        (["--pods", "4"], {}, {"pods": 4, "rate": 40}),
        (["--no_preload"], {}, {"ready_seconds": 12}),
        (["--max_restarting_workers", "2"], {}, {"max_restarting": 2}),
        ([], {}, {"max_draining": 2, "drain_seconds": 5}),
        (["--num_workers=3"], {}, {"max_draining": 3}),
        (["--max_draining_workers", "9"], {}, {"max_draining": 9}),
        (["--drain-seconds", "90"], {}, {"drain_seconds": 90}),
        (["--boot-seconds", "9.5"], {}, {"boot_seconds": 9.5, "ready_seconds": 0.3}),
        (["--port", "4000", "--detailed_debug"], {}, {"limit": 1000}),
    ],
)
def test_what_is_read(
    arguments: list[str], environment: dict[str, str], expected: dict[str, Any]
) -> None:
    """LiteLLM's options too, in its own spelling, and no others."""
    scenario = planned(*arguments, **environment)["scenario"]
    assert expected.items() <= scenario.items()


def test_litellms_environment_variables_are_read() -> None:
    result = run(
        *("--plan", "--rps", "40", "--boot_seconds", "12", "--json"),
        NUM_WORKERS="3",
        MAX_REQUESTS_BEFORE_RESTART="500",
    )
    scenario = json.loads(result.stdout)["scenario"]
    assert (scenario["workers"], scenario["limit"]) == (3, 500)


@pytest.mark.parametrize("text", ["5%", "0.05", "5 %"])
def test_a_target_is_a_share_or_a_percentage(text: str) -> None:
    assert planned("--target", text)["advice"]["target"] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--plan", "--rps", "40"], "--max_requests_before_restart"),
        (["--plan", "--max_requests_before_restart", "9"], "--rps"),
        ([*PLAN, "--num_workers", "0"], "--num_workers"),
        ([*PLAN, "--max_requests_before_restart", "0"], "--max_requests_before_restart"),
        ([*PLAN, "--max_requests_jitter", "-1"], "max_requests_jitter"),
        (
            [*PLAN, "--max_requests_jitter", "1", "--max_requests_before_restart_jitter", "2"],
            "--max_requests_before_restart_jitter",
        ),
        ([*PLAN, "--rps", "0"], "--rps"),
        ([*PLAN, "--rps", "nan"], "--rps"),
        ([*PLAN, "--rps", "inf"], "--rps"),
        ([*PLAN, "--boot_seconds", "0"], "--boot_seconds"),
        ([*PLAN, "--boot_seconds", "nan"], "--boot_seconds"),
        ([*PLAN, "--boot_seconds", "soon"], "--boot_seconds"),
        ([*PLAN, "--drain_seconds", "0"], "--drain_seconds"),
        (["--drain_seconds", "9"], "--plan"),
        ([*PLAN, "--target", "0"], "--target"),
        ([*PLAN, "--target", "100%"], "--target"),
        ([*PLAN, "--target", "nan"], "--target"),
        ([*PLAN, "--target", "%"], "--target"),
        ([*PLAN, "--pods", "0"], "--pods"),
        ([*PLAN, "--seed", "x"], "--seed"),
        ([*PLAN, "--plot", "plan.pdf"], "--plot"),
        ([*PLAN, "--plot", "no/such/folder/plan.svg"], "--plot"),
        (["--rps", "40"], "--plan"),
        (["--boot-seconds", "auto"], "--plan"),
        (["--json"], "--plan"),
    ],
)
def test_a_usage_error_names_the_option(arguments: list[str], named: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert named in result.output


def test_a_missing_matplotlib_is_said_before_anything_is_computed(
    mocker: MockerFixture, tmp_path: Path
) -> None:
    mocker.patch.object(picture, "load", side_effect=ImportError)
    simulate = mocker.patch.object(outlook, "of_upstream")
    result = run(*PLAN, "--plot", str(tmp_path / "plan.svg"))
    assert result.exit_code == 2
    assert "pip install matplotlib" in result.output
    assert not simulate.called


@pytest.mark.parametrize(("suffix", "magic"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_a_picture_takes_the_place_of_the_terminals(
    tmp_path: Path, suffix: str, magic: bytes
) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"plan.{suffix}"
    result = run(*PLAN, "--plot", str(path))
    assert result.exit_code == 0, result.output
    first = path.read_bytes()
    assert first.startswith(magic)
    assert terminal.MARK not in result.output
    assert run(*PLAN, "--plot", str(path)).exit_code == 0
    assert path.read_bytes() == first


def test_a_file_that_cannot_be_written_is_named(mocker: MockerFixture, tmp_path: Path) -> None:
    mocker.patch.object(picture, "load")
    mocker.patch.object(picture, "save", side_effect=PermissionError("no"))
    result = run(*PLAN, "--plot", str(tmp_path / "plan.svg"))
    assert result.exit_code == 1
    assert "plan.svg cannot be written" in result.output


def test_the_boot_time_is_measured_unless_it_is_given(mocker: MockerFixture) -> None:
    mocker.patch.object(boot, "measured_seconds", return_value=7.25)
    result = run(*PLAN, "--boot_seconds", "auto")
    assert "a worker boots in 7.25 s (measured here)" in result.stdout


def test_a_boot_that_cannot_be_measured_is_told(mocker: MockerFixture) -> None:
    mocker.patch.object(boot, "IMPORTS", "import no_such_module_at_all")
    result = run(*PLAN, "--boot_seconds", "auto")
    assert result.exit_code == 1
    assert "no_such_module_at_all" in result.output
    assert "--boot_seconds" in result.output


def test_measuring_takes_as_long_as_the_import(mocker: MockerFixture) -> None:
    mocker.patch.object(boot, "IMPORTS", "import time; time.sleep(0.2)")
    assert 0.2 <= boot.measured_seconds() < 10


def test_one_worker_is_an_outage_each_time() -> None:
    output = run(*PLAN, "--num_workers", "1").output
    assert "One worker: each recycle of litellm is an outage" in output
    assert "Kubernetes" in output


def test_replacements_that_are_too_slow_are_pointed_out() -> None:
    slow = run(*PLAN, "--no_preload", "--max_requests_before_restart", "100").output
    assert "Recycles are due faster than replacements boot" in slow
    assert "Recycles are due faster" not in run(*PLAN).output


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12345.6, "12,346"), (100, "100"), (1.234, "1.23"), (0.0123, "0.012"), (50, "50")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert wording.number(value) == text


CHART = Chart(
    Timeline(2, 100.0, (Recycle(0, 50, 50, 75), Recycle(0, 50, 50, 75))),
    Timeline(2, 100.0, (Recycle(0, 50, 51, 51),)),
)


def test_the_plot_shows_an_outage_and_marks_recycles() -> None:
    lines = terminal.plot(CHART, 43, "utf-8").splitlines()
    assert lines[1] == " 2 " + "█" * 20 + " " * 10 + "█" * 10
    assert lines[4] == " 0 " + "█" * 20 + " " * 10 + "█" * 10
    assert lines[5] == " " * 23 + "▴"
    assert lines[7] == " 2 " + "█" * 40
    assert lines[-1].endswith("100 s")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "no-such-encoding"])
def test_the_plot_is_ascii_where_it_must_be(encoding: str) -> None:
    assert terminal.plot(CHART, 10, encoding).isascii()


def test_the_plot_keeps_to_the_width() -> None:
    assert max(len(line) for line in terminal.plot(CHART, 80, "utf-8").splitlines()) == 79 + 1


def test_the_mean_capacity_of_a_span_counts_parts_of_it() -> None:
    assert terminal.mean_capacity(CHART.upstream, 5) == pytest.approx([2, 2, 1, 0.5, 2])
