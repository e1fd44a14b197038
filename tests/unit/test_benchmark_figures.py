"""From what clients saw to figures, tables and a picture."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import picture, readme
from benchmarks.report import Comparison, Machine, Pooled
from benchmarks.results import Measurement, Results, Seen
from benchmarks.setups import HEADLINES, PICTURED, PRODUCTION, SIDES, Cell, Load
from benchmarks.store import write_json
from litellm_resilience.demo.load import FailureKind, LoadReport, RequestRecord

MACHINE = Machine(2, "processor", "Linux 6", 0.1, "3.11.7", {"litellm": "1.106.2"})
VERSIONS: dict[str, dict[str, str | None]] = {
    "1.106.2": {"litellm": "1.106.2", "uvicorn": "0.54.0", "gunicorn": "23.0.0"}
}


def record(
    timestamp: float,
    failure: FailureKind | None = None,
    status: int | None = 200,
    latency: float = 0.1,
) -> RequestRecord:
    return RequestRecord(timestamp, failure is None, latency, failure, status, True, None)


def seen(records: list[RequestRecord], *, events: list[float] | None = None) -> Seen:
    report = LoadReport(records=records, duration=5.0, sending=4.0, events=events or [])
    return Seen.of(report, recycles=[1.5], boots=[0.2, 0.4], serving=2, exit_status=None)


def results() -> Results:
    good = seen([record(second + 0.5) for second in range(4)])
    bad = seen([record(0.5), record(3.2, "http_5xx", 502), record(4.5, "reset", None)])
    found = Results("2026-11-23", MACHINE, Load(), VERSIONS)
    for cell in (
        Cell("1.106.2", kinds=(PICTURED,)),
        Cell("1.106.2"),
        Cell("1.106.2", front="nginx"),
    ):
        loads = [dict.fromkeys(cell.kinds, load) for load in (bad, good)]
        plain = Measurement(ready=20.0, memory=858.4, loads=loads[0])
        ours = Measurement(ready=16.0, all_ready=17.0, memory=445.1, loads=loads[1])
        found.add(cell, "plain", plain)
        found.add(cell, "resilient", ours)
    return found


def test_seconds_without_a_reply_are_those_with_neither_reply_nor_event() -> None:
    assert seen([record(0.5), record(3.5)]).silent_seconds == 2
    assert seen([record(3.5, "reset", None)], events=[0.1, 1.9]).silent_seconds == 2


def test_a_percentile_over_all_rounds_shows_the_bad_one() -> None:
    pooled = Pooled("p99", 99)
    for plain, ours in ((0.1, 0.1), (0.1, 0.1), (0.5, 0.1)):
        pooled.rounds["plain"].append(LoadReport([record(0.0, latency=plain)]))
        pooled.rounds["resilient"].append(LoadReport([record(0.0, latency=ours)]))
    found = pooled.as_json()
    assert found["value"] == {"plain": 500, "resilient": 100}
    assert found["ratio"] == pytest.approx(0.2)
    low, high = found["ratio_95"]
    assert low == pytest.approx(0.2)
    assert high == pytest.approx(1)


def test_what_was_measured_on_another_machine_says_so() -> None:
    found = results()
    comparison = Comparison("share", "", {"plain": [2.0], "resilient": [1.0]}).as_json()
    outcome = {"results": [comparison], "problems": [], "processor": MACHINE.processor}
    found.balance = {"share": {"1.106.2": outcome}}
    assert "another machine" not in readme.fragments(found)["even-load"]
    outcome["processor"] = "another one"
    assert "than the rest (another one)" in readme.fragments(found)["even-load"]


def test_gateway_errors_are_counted_apart_and_late_replies_are_not_drawn() -> None:
    found = seen([record(0.5), record(0.7), record(1.0, "http_5xx", 502), record(4.5)])
    assert found.gateway_errors == {"502": 1}
    assert (found.requests, found.failed) == (4, 1)
    assert found.replies == [2, 0, 0, 0]


def test_without_a_reply_there_is_no_latency() -> None:
    found = seen([record(1.0, "reset", None)])
    assert (found.p50, found.p99, found.longest) == (None, None, None)


def test_results_are_the_same_when_read_again(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    before = results()
    write_json(path, before.as_dict())
    assert Results.load_from(path) == before


def test_the_tables_compare_both_sides() -> None:
    fragments = readme.fragments(results())
    assert set(fragments) == {"recycling", "picture", "fronts", "machine"}
    assert fragments["recycling"].splitlines()[-1] == (
        "| 1.106.2, uvicorn 0.54.0, two workers | 2 of 3 → **0** of 4 | 2 of 3 → **0** of 4 "
        "| 3 → **0** | 0.3 s → 0.3 s | 858 MB → 445 MB | not in 180 s → 17 s |"
    )
    assert fragments["fronts"].splitlines()[-1] == (
        "| through nginx, 1.106.2 | 2 of 3 → **0** of 4 | 1 → **0** | 2 of 3 → **0** of 4 "
        "| 1 → **0** |"
    )


def test_a_side_that_never_served_is_a_result() -> None:
    found = results()
    dead = Measurement(problem="the proxy ended with status 1")
    for side in SIDES:
        found.add(Cell("1.106.2", workers=1), side, dead)
    row = readme.fragments(found)["recycling"].splitlines()[-1]
    assert row.startswith("| 1.106.2, uvicorn 0.54.0, one worker | - → - |")
    assert "the proxy ended with status 1" in readme.page(found)


def test_what_people_run_is_first_in_the_table_but_is_not_compared_with_reverse_proxies() -> None:
    found = results()
    for cell in PRODUCTION:
        for side in SIDES:
            found.add(cell, side, Measurement(ready=1.0))
    fragments = readme.fragments(found)
    first, *_, last = fragments["recycling"].partition("|---|")[2].splitlines()[1:]
    assert first.startswith("| 1.106.2, uvicorn 0.54.0, two workers, PostgreSQL |")
    assert "PostgreSQL" not in last
    assert fragments["fronts"] == readme.fragments(results())["fronts"]


def test_what_the_picture_shows_is_in_a_table_too() -> None:
    row = readme.fragments(results())["picture"].splitlines()[-1]
    assert row == "| 1.106.2, 2 uvicorn workers, direct | 2 of 3 → **0** of 4 | 3 → **0** | 1 → 1 |"


def test_the_readme_shows_a_stack_one_worker_and_gunicorn() -> None:
    found = results()
    for cell in HEADLINES.values():
        for side in SIDES:
            found.add(cell, side, Measurement(memory=1.0))
    rows = readme.fragments(found)["headline"].splitlines()[2:]
    starts = ["| two workers, PostgreSQL, Redis, ", "| one worker | ", "| two gunicorn workers | "]
    assert [row.startswith(start) for row, start in zip(rows, starts, strict=True)] == [True] * 3


def test_what_holds_a_pod_within_bounds_has_two_tables() -> None:
    found = results()
    plain = {"requests": 90, "failures": {"reset": 3, "timeout": 1}, "recycled": 0, "memory": 1190}
    ours = {"requests": 500, "failures": {}, "recycled": 31, "memory": 1012}
    leak = {"plain": {**plain, "killed": 2}, "resilient": {**ours, "killed": 0}}
    limited = {side: {**figures, "limit": 1200} for side, figures in leak.items()}
    there = {"draining": 2, "others": {"requests": 16, "failures": {}}}
    beside = {side: {**each, **there} for side, each in (("plain", plain), ("resilient", ours))}
    found.bounds = {"memory": {"1.106.2": limited}, "streams": {"1.106.2": beside}}
    tables = readme.fragments(found)
    assert tables["memory"].splitlines()[2:] == [
        "| plain `litellm`, 1.106.2 | 4 of 90 | 2 | 0 | 1,190 of 1,200 MB |",
        "| `litellm-resilience`, 1.106.2 | **0** of 500 | **0** | 31 | 1,012 of 1,200 MB |",
    ]
    first, second = (row.split(" | ") for row in tables["draining"].splitlines()[2:])
    assert first[1:] == [
        "plain `litellm`, 1.106.2",
        "4 of 90",
        "**0** of 16",
        "-",
        "-",
        "1,190 MB |",
    ]
    assert second[2:] == ["**0** of 500", "**0** of 16", "31", "2", "1,012 MB |"]


def test_plain_litellm_has_its_own_jitter_where_it_knows_one() -> None:
    load = Load(limit=150, jitter=50, plain_jitter=True)
    assert "--max_requests_before_restart_jitter" in load.options("plain", "1.106.2")
    assert load.options("plain", "1.89.7") == ["--max_requests_before_restart", "150"]
    assert Load().options("plain", "1.106.2") == ["--max_requests_before_restart", "150"]


def test_the_page_has_every_figure() -> None:
    page = readme.page(results())
    for text in ("p99", "recycles", "through nginx", "2 cores (processor)"):
        assert text in page


def test_the_same_figures_make_the_same_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    paths = [tmp_path / "one.svg", tmp_path / "two.svg"]
    assert all(picture.save(results(), path) for path in paths)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_regions_are_replaced_and_the_others_stay() -> None:
    text = (
        "a\n<!-- benchmarks: one -->\nold\n<!-- end -->\n"
        "b\n<!-- benchmarks: two-three -->\nold\n<!-- end -->\n"
    )
    assert readme.regions(text) == ["one", "two-three"]
    assert readme.rewritten(text, {"one": "| new |"}) == text.replace("old", "| new |", 1)
