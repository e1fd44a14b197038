"""What the supervisor is told of LiteLLM, without LiteLLM."""

from __future__ import annotations

import importlib
import threading

import pytest
from pytest_mock import MockerFixture

from litellm_resilience.servers import application, host, warmup
from litellm_resilience.servers.host import LiteLLMHost
from litellm_resilience.servers.supervised import Supervision
from litellm_resilience.supervisor import preload
from litellm_resilience.supervisor.limits import Recycling


@pytest.fixture(autouse=True)
def _nothing_is_loaded(mocker: MockerFixture) -> None:
    mocker.patch.object(application, "create_app")
    mocker.patch.object(host, "warm_up")
    mocker.patch.object(host, "_reserve_for_forking", return_value=None)
    mocker.patch.object(preload, "_native_threads", return_value=0)
    mocker.patch.object(host, "REAPER_THREAD", "")


def stale(mocker: MockerFixture, *names: str) -> LiteLLMHost:
    """Return a host of which these variables were changed too late."""
    return LiteLLMHost(mocker.Mock(**{"stale.return_value": list(names)}))


def test_variables_that_the_command_applies_itself_are_no_obstacle(mocker: MockerFixture) -> None:
    obstacle = mocker.patch.object(preload, "obstacle", return_value=None)
    assert stale(mocker, "JSON_LOGS", "OTHER").preload(2) is None
    assert {frozenset(call.args[0]) for call in obstacle.call_args_list} == {frozenset({"OTHER"})}


def test_a_late_variable_is_named(mocker: MockerFixture) -> None:
    mocker.patch.object(threading, "enumerate", return_value=[])
    assert stale(mocker, "OTHER").preload(2) == "set after modules had read them: OTHER"


def test_a_warm_up_that_starts_a_thread_is_named(mocker: MockerFixture) -> None:
    mocker.patch.object(preload, "obstacle", side_effect=[None, "there are other threads: x"])
    assert LiteLLMHost().preload(1) == "after the warm-up there are other threads: x"


def test_a_missing_module_does_not_stop_the_warm_up(mocker: MockerFixture) -> None:
    mocker.patch.object(warmup, "MODULES", ("no_such_module", "json"))
    mocker.patch.object(warmup, "_find_route", side_effect=ImportError)
    load = mocker.patch.object(importlib, "import_module", side_effect=[ImportError, None])
    warmup.warm_up(mocker.Mock(), 1)
    assert [call.args[0] for call in load.call_args_list] == ["no_such_module", "json"]


def test_routes_are_asked_until_one_matches(mocker: MockerFixture) -> None:
    mocker.patch.object(warmup, "MODULES", ())
    routing = pytest.importorskip("starlette.routing")
    matches = (routing.Match.NONE, routing.Match.FULL, routing.Match.NONE)
    routes = [mocker.Mock(**{"matches.return_value": (match, {})}) for match in matches]
    application = mocker.Mock()
    application.router.routes = routes
    warmup.warm_up(application, 1)
    assert [route.matches.called for route in routes] == [True, True, False]


@pytest.mark.parametrize(
    ("arguments", "recycling", "wanted"),
    [
        ({"workers": 1}, Recycling(), False),
        ({"workers": None}, Recycling(), False),
        ({"workers": 2}, Recycling(), True),
        ({"workers": 1, "limit_max_requests": 10}, Recycling(), True),
        ({"workers": 1}, Recycling(memory_mb=500), True),
        ({"workers": 1}, Recycling(lifetime=60), True),
        ({"workers": 2, "reload": True}, Recycling(), False),
        ({"workers": 1, "limit_max_requests": 10, "reload": True}, Recycling(), False),
    ],
)
def test_what_is_supervised(
    arguments: dict[str, int | None], recycling: Recycling, wanted: bool
) -> None:
    assert Supervision(recycling=recycling).wanted(arguments) is wanted
