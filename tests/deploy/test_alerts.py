"""The alert rules as Prometheus would load them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from deployment import DEPLOY, pod, read_yaml
from metrics_table import faults, series

RULES: list[dict[str, Any]] = [
    rule
    for group in read_yaml(DEPLOY / "prometheus" / "alerts.yaml")["groups"]
    for rule in group["rules"]
]
TESTS = read_yaml(DEPLOY / "prometheus" / "alerts_test.yaml")["tests"]
OF_ONE_WORKER = "litellm_resilience_worker_event_loop_lag_seconds"
every_rule = pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])


@every_rule
def test_a_rule_uses_metrics_that_there_are(rule: dict[str, Any]) -> None:
    assert faults(rule["expr"]) == []


@every_rule
def test_a_rule_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert re.fullmatch(r"\d+[mh]", rule["for"])
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert "log" in rule["annotations"]["runbook"]


@every_rule
def test_templates_use_labels_that_the_result_has(rule: dict[str, Any]) -> None:
    """Each result has the target's labels, that of one worker its slot too; `absent` has none."""
    text = " ".join(rule["annotations"].values())
    used = set(re.findall(r"\$labels\.(\w+)", text))
    labels = {"instance", "slot"} if rule["expr"].startswith(OF_ONE_WORKER) else {"instance"}
    assert used == (set() if rule["expr"].startswith("absent(") else labels)
    shown = {f"$labels.{label}" for label in labels}
    assert set(re.findall(r"\{\{ *(\S+)", text)) <= {*shown, "$value"}


def test_a_pod_that_drains_until_its_end_is_no_alarm() -> None:
    (rule,) = [each for each in RULES if each["alert"] == "LitellmTooFewWorkers"]
    assert int(rule["for"].removesuffix("m")) * 60 > pod()["terminationGracePeriodSeconds"]


def test_names_of_rules_are_unique() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names))


def test_promtools_tests_make_each_rule_fire_with_series_that_there_are() -> None:
    text = str(TESTS)
    assert [rule["alert"] for rule in RULES if rule["alert"] not in text] == []
    given = [each["series"] for test in TESTS for each in test["input_series"]]
    assert {name.partition("{")[0] for name in given} <= set(series())
    assert [fault for each in given for fault in faults(each)] == []
