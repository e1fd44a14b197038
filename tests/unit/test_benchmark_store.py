"""Interrupted runs go on; runs under other conditions do not."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import long
from benchmarks.results import LongRun
from benchmarks.store import ConditionsError, Store

CONDITIONS = {"limit": 300, "litellm": "1.106.2"}
SLICE = {"kind": "json", "requests": 1000, "failures": {}, "recycles": 6, "seconds": 240.0}


def fail() -> Any:
    pytest.fail("measured again")


def test_what_is_measured_is_not_measured_again(tmp_path: Path) -> None:
    assert Store(tmp_path, CONDITIONS).once("cell", lambda: {"failed": 0}) == {"failed": 0}
    assert Store(tmp_path, CONDITIONS).once("cell", fail) == {"failed": 0}
    assert Store(tmp_path, {**CONDITIONS, "line": 1}).once("cell", fail) == {"failed": 0}


def test_other_conditions_are_refused_and_named(tmp_path: Path) -> None:
    Store(tmp_path, CONDITIONS).put("cell", 1)
    Store(tmp_path, {"limit": 300, "more": 1})
    with pytest.raises(ConditionsError, match=r"limit was 300, is 5"):
        Store(tmp_path, {"limit": 5})
    assert Store(tmp_path, {"limit": 5}, fresh=True).get("cell") is None


def test_a_long_run_adds_up_over_interruptions(tmp_path: Path) -> None:
    state = tmp_path / "long.jsonl"
    assert long.resume(state, CONDITIONS).requests.total() == 0
    for figures in (SLICE, {**SLICE, "kind": "stream", "failures": {"reset": 2}}):
        with state.open("a") as file:
            file.write(json.dumps(figures) + "\n")
    with state.open("a") as file:
        file.write('{"kind": "js')
    total = long.resume(state, CONDITIONS)
    assert (total.slices, total.recycles, total.requests.total()) == (2, 12, 2000)
    assert total.failures == {"reset": 2}
    assert total.sentence().startswith("2 of 2,000 requests failed (1,000 JSON and 1,000 streams)")
    assert "a loss below 0.31 %" in total.sentence()
    assert state.read_text().endswith("}\n"), "what was half written is gone"


def test_a_long_run_without_a_failure_says_what_that_is_worth(tmp_path: Path) -> None:
    total = LongRun(CONDITIONS)
    total.add({**SLICE, "requests": 100_000})
    assert "a loss below 0.003 % (3 of 100,000)" in total.sentence()
    assert "(100,000 JSON)" in total.sentence()


def test_a_long_run_counts_the_records_of_its_replies() -> None:
    total = LongRun(CONDITIONS)
    assert total.ledger() == ""
    total.add({**SLICE, "failures": {"reset": 1}, "records": {"sink": [999, 0], "rows": [990, 2]}})
    total.add({**SLICE, "records": {"sink": [1000, 0], "rows": [1000, 0]}})
    assert total.ledger() == (
        "Records missing of 1,999 replies: 0 at sink (0 twice), 9 at rows (2 twice)."
    )


def test_a_long_run_says_what_was_measured_and_when() -> None:
    total = LongRun({**CONDITIONS, "litellm-resilience": "0.1.0"})
    assert total.measured() == "litellm-resilience 0.1.0"
    for moment in ("2026-11-23 23:59:59", "2026-11-24 00:04:00", "2026-11-24 00:08:00"):
        total.add({**SLICE, "began": moment})
    assert total.measured() == "litellm-resilience 0.1.0, 2026-11-23 to 2026-11-24"


def test_a_long_run_under_other_conditions_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "long.jsonl"
    state.write_text(json.dumps({"limit": 1}) + "\n" + json.dumps(SLICE) + "\n")
    parser = argparse.ArgumentParser()
    long.add_arguments(parser)
    with pytest.raises(SystemExit) as ended:
        long.run(parser.parse_args(["--state", str(state)]))
    assert ended.value.code == 2
    assert "limit was 1, is 250" in capsys.readouterr().err


def test_a_long_run_that_has_enough_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "long.jsonl"
    parser = argparse.ArgumentParser()
    long.add_arguments(parser)
    arguments = ["--state", str(state), "--requests", "1000", "--recycles", "6"]
    args = parser.parse_args(arguments)
    state.write_text(json.dumps({}) + "\n" + json.dumps(SLICE) + "\n")
    assert long.run(args) == []
    assert capsys.readouterr().out.startswith("0 of 1,000 requests failed (1,000 JSON)")
