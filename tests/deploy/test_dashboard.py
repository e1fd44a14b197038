"""The dashboard as Grafana would import it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from deployment import DEPLOY
from metrics_doc import documented
from metrics_table import faults

DASHBOARD: dict[str, Any] = json.loads(
    (DEPLOY / "grafana" / "dashboard.json").read_text(encoding="utf-8")
)
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
GRAFANAS = {"$__rate_interval": "5m", "$__range": "3h", "$instance": ".*"}
WIDTH = 24
every_panel = pytest.mark.parametrize(
    "panel", PANELS, ids=[f"{each['id']} {each['title']}" for each in PANELS]
)


def promql(text: str) -> str:
    """Return a query as Prometheus gets it, and fail if a variable is left in it."""
    for name, value in GRAFANAS.items():
        text = text.replace(name, value)
    assert "$" not in text
    return text


def variable(kind: str) -> dict[str, Any]:
    """Return the dashboard's only variable of this type."""
    found: dict[str, Any]
    (found,) = [each for each in DASHBOARD["templating"]["list"] if each["type"] == kind]
    return found


def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
    at = panel["gridPos"]
    return {
        (x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    }


@every_panel
def test_a_query_uses_metrics_that_there_are(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        assert faults(promql(target["expr"])) == []
        assert 'instance=~"$instance"' in target["expr"]


@every_panel
def test_a_legend_uses_labels_that_the_query_has(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            aggregated = re.search(r"sum by \((\w+)\)", target["expr"])
            assert label in ({aggregated[1]} if aggregated else {"instance", "slot"})


@every_panel
def test_a_panel_asks_the_chosen_source(panel: dict[str, Any]) -> None:
    source = variable("datasource")
    chosen = {"type": source["query"], "uid": f"${{{source['name']}}}"}
    assert panel["datasource"] == chosen
    assert variable("query")["datasource"] == chosen
    assert [target["datasource"] for target in panel["targets"]] == [chosen] * len(panel["targets"])
    references = [target["refId"] for target in panel["targets"]]
    assert len(references) == len(set(references))


def test_panels_have_names_and_places_of_their_own() -> None:
    numbers = [panel["id"] for panel in PANELS]
    assert len(numbers) == len(set(numbers))
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        wanted = cells(panel)
        assert wanted
        assert not wanted & taken, panel["title"]
        assert all(x < WIDTH for x, _ in wanted), panel["title"]
        taken |= wanted


def test_every_metric_is_shown() -> None:
    text = json.dumps(PANELS)
    assert [name for name in documented() if not re.search(rf"\b{name}(_bucket)?\b", text)] == []


def test_it_can_be_imported_anywhere() -> None:
    assert DASHBOARD["title"]
    assert DASHBOARD["schemaVersion"] >= 36
    assert "id" not in DASHBOARD
    metric = re.fullmatch(r"label_values\((\w+), instance\)", variable("query")["query"]["query"])
    assert metric
    assert metric[1] in documented()
