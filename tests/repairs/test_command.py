"""LiteLLM's command with our option, up to the call that would start the server."""

from __future__ import annotations

import importlib
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import uvicorn
from click.testing import CliRunner, Result
from pytest_mock import MockerFixture

from litellm_resilience.command import combined, extended, options
from litellm_resilience.command.entry import cli
from litellm_resilience.servers import (
    application,
    gunicorn,
    interception,
    notices,
    supervised,
)
from litellm_resilience.servers import hypercorn as hypercorn_server
from litellm_resilience.servers import uvicorn as uvicorn_server
from litellm_resilience.servers.host import LiteLLMHost
from litellm_resilience.supervisor.drain import DrainingServer
from litellm_resilience.supervisor.jitter import JitteredLimit
from litellm_resilience.supervisor.limits import Recycling
from litellm_resilience.supervisor.policy import Settings

LIMIT = ("--max_requests_before_restart", "300")


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """LiteLLM's command writes into the environment."""
    before = dict(os.environ)
    monkeypatch.setenv("LITELLM_MASTER_KEY", "sk-f2c1b0d4e6a85b97c3d1e2f4a6b8c0d2")
    for name in ("MAX_REQUESTS_JITTER", "MAX_REQUESTS_BEFORE_RESTART_JITTER", "NUM_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def warned(mocker: MockerFixture) -> list[str]:
    """What we warn about."""
    messages: list[str] = []
    mocker.patch.object(notices, "warn", messages.append)
    mocker.patch.object(gunicorn, "warn", messages.append)
    return messages


@pytest.fixture
def served(mocker: MockerFixture) -> Any:
    """`uvicorn.run`, which in these tests returns at once."""
    return mocker.patch("uvicorn.run")


def run(*arguments: str, tmp_path: Path | None = None) -> Result:
    return CliRunner().invoke(cli, ["--host", "127.0.0.1", "--port", "0", *arguments])


def native_jitter() -> bool:
    """Whether this LiteLLM has the option of its own."""
    from litellm.proxy.proxy_cli import run_server

    return any(parameter.name == options.NATIVE_JITTER for parameter in run_server.params)


@pytest.mark.parametrize("spelling", ["--max_requests_jitter", "--max-requests-jitter"])
def test_the_jitter_reaches_uvicorn_run(served: Any, warned: list[str], spelling: str) -> None:
    result = run(*LIMIT, "--num_workers", "2", spelling, "100")
    assert result.exit_code == 0, result.output
    assert served.call_count == 1
    arguments = served.call_args.kwargs
    assert arguments["workers"] == 2
    assert arguments["port"] == 0
    if uvicorn_server.has_jitter():
        assert arguments["limit_max_requests"] == 300
        assert arguments["limit_max_requests_jitter"] == 100
    else:
        assert "limit_max_requests_jitter" not in arguments
        assert isinstance(arguments["limit_max_requests"], JitteredLimit)
        assert 300 <= arguments["limit_max_requests"] <= 400
    uvicorn.Config(**{name: value for name, value in arguments.items() if name != "workers"})


def test_the_environment_variable_means_the_same(
    served: Any, warned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_REQUESTS_JITTER", "0")
    assert run(*LIMIT).exit_code == 0
    arguments = served.call_args.kwargs
    if uvicorn_server.has_jitter():
        assert arguments["limit_max_requests_jitter"] == 0
    assert arguments["limit_max_requests"] == 300


def test_without_the_option_uvicorn_gets_no_jitter(served: Any, warned: list[str]) -> None:
    assert run(*LIMIT).exit_code == 0
    assert "limit_max_requests_jitter" not in served.call_args.kwargs
    assert type(served.call_args.kwargs["limit_max_requests"]) is int


def test_workers_import_the_patched_application(served: Any, mocker: MockerFixture) -> None:
    targets: list[str | None] = []
    served.side_effect = lambda **_: targets.append(os.environ.get(application.TARGET_VARIABLE))
    assert run("--num_workers", "2").exit_code == 0
    arguments = served.call_args.kwargs
    assert arguments["app"] == "litellm_resilience.servers.application:create_app"
    assert arguments["factory"] is True
    assert targets[0] in {"litellm.proxy.proxy_server:app", "litellm_cli.main:proxy_worker_app()"}
    assert application.TARGET_VARIABLE not in os.environ


def test_other_uvicorn_calls_pass_through(mocker: MockerFixture) -> None:
    """LiteLLM's metrics server is served by `uvicorn.run` too, with an object."""
    original = mocker.patch("uvicorn.run")
    application = mocker.sentinel.metrics
    with interception.intercepted(100, None):
        uvicorn.run(application, port=1)
        uvicorn.run(app=application, limit_max_requests=5)
    assert [call.kwargs for call in original.call_args_list] == [
        {"port": 1},
        {"app": application, "limit_max_requests": 5},
    ]
    assert uvicorn.run is original


def test_jitter_without_a_limit_is_one_warning(served: Any, warned: list[str]) -> None:
    assert run("--max_requests_jitter", "100").exit_code == 0
    assert warned == [notices.NO_LIMIT]
    assert "limit_max_requests_jitter" not in served.call_args.kwargs


def test_one_worker_with_a_limit_is_not_warned_about(served: Any, warned: list[str]) -> None:
    """LiteLLM 1.108.0 and later would: there the process exits."""
    result = run(*LIMIT, "--num_workers", "1")
    assert result.exit_code == 0, result.output
    assert "does not recycle" not in result.output
    assert warned == []


def uvicorn_main() -> Any:
    """Return the module, which the function of that name hides."""
    return importlib.import_module("uvicorn.main")


@pytest.fixture
def supervisor(mocker: MockerFixture) -> Any:
    """What the supervisor would be made with; `uvicorn.run` is uvicorn's own."""
    replaced = mocker.patch.object(supervised, "Supervisor")
    replaced.return_value.run.return_value = 0
    mocker.patch.object(LiteLLMHost, "preload", return_value=None)
    mocker.patch.object(supervised, "share_memory")
    return replaced


@pytest.mark.parametrize("count", [1, 3])
def test_workers_with_a_limit_are_supervised(supervisor: Any, count: int) -> None:
    result = run(*LIMIT, "--max_requests_jitter", "7", "--num_workers", str(count))
    assert result.exit_code == 0, result.output
    config, sockets, plan, launcher, _ = supervisor.call_args.args
    assert len(sockets) == 1
    assert plan.workers == config.workers == count
    assert plan.recycling == Recycling(requests=300, requests_jitter=7)
    assert plan.settings == Settings(reload_trial=30)
    assert launcher.method == "forked"


def test_our_options_reach_the_supervisor(supervisor: Any) -> None:
    result = run(
        *("--max-worker-memory-mb", "900", "--max_worker_lifetime", "3600"),
        *("--worker_limit_jitter", "0.25", "--min_worker_lifetime", "5"),
        *("--max_restarting_workers", "2", "--max_draining_workers", "6"),
        *("--worker_boot_timeout", "90"),
        *("--worker-drain-timeout", "30.5", "--worker_hang_timeout", "20", "--no-preload"),
        *("--reload_trial", "12"),
    )
    assert result.exit_code == 0, result.output
    plan, launcher = supervisor.call_args.args[2:4]
    assert plan.recycling == Recycling(memory_mb=900, lifetime=3600, jitter=0.25)
    assert plan.settings == Settings(
        max_restarting=2,
        max_draining=6,
        boot_timeout=90,
        drain_timeout=30.5,
        hang_timeout=20,
        min_lifetime=5,
        reload_trial=12,
    )
    assert launcher.method == "spawned"


def test_the_environment_sets_our_options(supervisor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_WORKER_LIFETIME", "60")
    monkeypatch.setenv("MAX_RESTARTING_WORKERS", "3")
    assert run("--num_workers", "2").exit_code == 0
    plan = supervisor.call_args.args[2]
    assert plan.recycling.lifetime == 60
    assert plan.settings.max_restarting == 3


def test_one_worker_without_a_limit_is_not_supervised(
    supervisor: Any, mocker: MockerFixture, warned: list[str]
) -> None:
    server = mocker.patch.object(uvicorn_main(), "Server")
    run("--num_workers", "1", "--worker_hang_timeout", "30")
    assert server.called
    assert not supervisor.called
    assert warned == ["No effect with one worker that has no limit: --worker_hang_timeout."]


def test_a_supervisor_that_is_disabled_leaves_uvicorns_own(
    supervisor: Any, mocker: MockerFixture, warned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITELLM_RESILIENCE_DISABLE", "worker-supervisor")
    own = mocker.patch.object(uvicorn_main(), "Multiprocess")
    assert run(*LIMIT, "--num_workers", "2").exit_code == 0
    assert own.called
    assert not supervisor.called
    assert len(warned) == 1
    assert "not supervised" in warned[0]


def test_a_uvicorn_that_does_not_fit_leaves_its_own_supervisor(
    supervisor: Any, mocker: MockerFixture, warned: list[str]
) -> None:
    own = mocker.patch.object(uvicorn_main(), "Multiprocess")
    mocker.patch("uvicorn.server.Server.on_tick", None)
    assert run(*LIMIT, "--num_workers", "2").exit_code == 0
    assert own.called
    assert not supervisor.called
    assert "on_tick" in warned[0]


def test_nothing_of_uvicorn_stays_replaced(supervisor: Any) -> None:
    main = uvicorn_main()
    before = (uvicorn.run, main.Multiprocess, main.Server)
    assert run(*LIMIT, "--num_workers", "2").exit_code == 0
    assert supervisor.called
    assert (uvicorn.run, main.Multiprocess, main.Server) == before


def test_the_port_that_is_taken_is_told_before_anything_starts(supervisor: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(
            cli, ["--host", "127.0.0.1", "--port", port, "--num_workers", "2", *LIMIT]
        )
    if result.exit_code == 0:
        # LiteLLM itself moves on to another port when it finds this one taken.
        assert supervisor.call_args.args[0].port != int(port)
    else:
        assert not supervisor.called


def test_the_native_option_is_an_alias(served: Any, warned: list[str]) -> None:
    if not native_jitter():
        assert run(*LIMIT, "--max_requests_before_restart_jitter", "50").exit_code == 2
        return
    assert run(*LIMIT, "--max_requests_before_restart_jitter", "50").exit_code == 0
    arguments = served.call_args.kwargs
    if uvicorn_server.has_jitter():
        assert arguments["limit_max_requests_jitter"] == 50
    else:
        assert 300 <= arguments["limit_max_requests"] <= 350


def test_both_spellings_of_the_native_option_must_agree(served: Any, warned: list[str]) -> None:
    if not native_jitter():
        pytest.skip("this LiteLLM has no jitter option")
    both = ("--max_requests_before_restart_jitter", "50", "--max_requests_jitter")
    assert run(*LIMIT, *both, "50").exit_code == 0
    result = run(*LIMIT, *both, "60")
    assert result.exit_code == 2
    assert "different values" in result.output


def test_a_negative_native_jitter_is_a_usage_error(served: Any) -> None:
    if not native_jitter():
        pytest.skip("this LiteLLM has no jitter option")
    assert run(*LIMIT, "--max_requests_before_restart_jitter", "-1").exit_code == 2
    assert not served.called


def test_every_option_of_litellm_is_accepted_unchanged() -> None:
    from litellm.proxy.proxy_cli import run_server

    ours = {option for p in extended.extended_command().params for option in p.opts}
    theirs = {option for p in run_server.params for option in p.opts}
    assert theirs <= ours


def test_help_shows_our_options_before_those_of_litellm() -> None:
    text = CliRunner().invoke(cli, ["--help"]).output
    our_part, section, litellm_part = text.partition(f"{combined.THEIRS}:")
    assert section
    assert "\n  --max_requests_jitter N " in our_part
    assert "MAX_REQUESTS_JITTER" in our_part
    assert "\n  --max_requests_before_restart " in litellm_part
    assert "\n  --max_requests_jitter" not in litellm_part


def test_gunicorn_gets_the_jitter_once(mocker: MockerFixture, warned: list[str]) -> None:
    """It is drawn in gunicorn's master; nothing else may draw it again."""
    base = pytest.importorskip("gunicorn.app.base")
    create_app = mocker.patch.object(application, "create_app")
    mocker.patch.object(gunicorn, "warm_up")
    mocker.patch.object(gunicorn, "share_memory")
    seen: list[Any] = []
    mocker.patch.object(base.BaseApplication, "run", lambda self: seen.append(self.cfg))
    result = run("--run_gunicorn", *LIMIT, "--max_requests_jitter", "100", "--num_workers", "2")
    assert result.exit_code == 0, result.output
    assert [(cfg.max_requests, cfg.max_requests_jitter) for cfg in seen] == [(300, 100)]
    assert create_app.called


def test_gunicorns_workers_get_a_server_that_drains(
    mocker: MockerFixture, warned: list[str]
) -> None:
    base = pytest.importorskip("gunicorn.app.base")
    mocker.patch.object(application, "create_app")
    mocker.patch.object(gunicorn, "warm_up")
    mocker.patch.object(gunicorn, "share_memory")
    seen: list[Any] = []
    module = gunicorn.workers_module()
    mocker.patch.object(
        base.BaseApplication, "run", side_effect=lambda _: seen.append(module.Server)
    )
    own = module.Server
    options = ("--worker_drain_timeout", "7", "--max_worker_memory_mb", "100")
    result = run("--run_gunicorn", *LIMIT, *options)
    assert result.exit_code == 0, result.output
    assert issubclass(seen[0], DrainingServer)
    assert seen[0].drain_timeout == 7
    assert module.Server is own
    assert warned == ["No effect with gunicorn: --max_worker_memory_mb."]


def test_gunicorn_without_a_limit_is_one_warning(mocker: MockerFixture, warned: list[str]) -> None:
    base = pytest.importorskip("gunicorn.app.base")
    mocker.patch.object(application, "create_app")
    mocker.patch.object(gunicorn, "warm_up")
    mocker.patch.object(gunicorn, "share_memory")
    mocker.patch.object(base.BaseApplication, "run", return_value=None)
    run("--run_gunicorn", "--max_requests_jitter", "100", "--num_workers", "2")
    assert warned == [notices.NO_LIMIT]


def test_granian_serves_patched_and_warns(mocker: MockerFixture, warned: list[str]) -> None:
    granian = pytest.importorskip("granian")
    server = mocker.patch.object(granian, "Granian")
    result = run("--run_granian", *LIMIT, "--max_requests_jitter", "100")
    assert result.exit_code == 0, result.output
    assert server.call_args.kwargs["target"] == "litellm_resilience.asgi:app"
    expected = "No effect with granian: --max_requests_before_restart, --max_requests_jitter."
    assert [text for text in warned if "granian" in text] == [expected]


def test_granian_without_a_limit_is_no_warning(mocker: MockerFixture, warned: list[str]) -> None:
    mocker.patch.object(pytest.importorskip("granian"), "Granian")
    run("--run_granian")
    assert [text for text in warned if "granian" in text] == []


def test_doctor_prints_the_table_and_json() -> None:
    table = CliRunner().invoke(cli, ["--doctor"])
    assert table.exit_code == 0, table.output
    for word in ("litellm", "uvicorn", "python", "shared-session", "uvicorn-jitter"):
        assert word in table.output
    document = json.loads(CliRunner().invoke(cli, ["--doctor", "--json"]).stdout)
    assert document["healthy"] is True
    assert document["patches"]["uvicorn-jitter"]["state"] in {"native", "applied"}
    assert document["versions"]["aiohttp"]


def test_the_manual_shows_each_patch_that_the_doctor_knows() -> None:
    document = json.loads(CliRunner().invoke(cli, ["--doctor", "--json"]).stdout)
    page = (Path(__file__).parents[2] / "docs" / "install.md").read_text()
    sample = page.partition("$ litellm-resilient --doctor\nlitellm-resilience")[2].partition("```")[
        0
    ]
    shown = re.findall(r"^([\w-]+) +(?:applied|native|not needed) ", sample, re.MULTILINE)
    assert shown == list(document["patches"])


def test_doctor_fails_when_something_that_should_apply_cannot(mocker: MockerFixture) -> None:
    import litellm_resilience
    from litellm_resilience.repairs import registry
    from litellm_resilience.repairs.base import Outcome, PatchState

    litellm_resilience.uninstall()
    broken = {"stream-release": Outcome(PatchState.INCOMPATIBLE, "no __aiter__")}
    mocker.patch.object(registry, "install", return_value=broken)
    result = CliRunner().invoke(cli, ["--doctor"])
    assert result.exit_code == 1
    assert "no __aiter__" in result.output


@pytest.fixture(autouse=True)
def _taken_back() -> Iterator[None]:
    yield
    import litellm_resilience

    litellm_resilience.uninstall()


def test_the_command_is_a_copy(served: Any, warned: list[str]) -> None:
    """LiteLLM's own command is untouched."""
    from litellm.proxy.proxy_cli import run_server

    run(*LIMIT, "--max_requests_jitter", "1")
    assert not any(parameter.name == "max_requests_jitter" for parameter in run_server.params)
    version = next(p for p in run_server.params if p.name == "version")
    assert isinstance(version, click.Option)
    assert version.help == "Print LiteLLM version"


def test_hypercorn_serves_patched_and_warns(mocker: MockerFixture, warned: list[str]) -> None:
    hypercorn = pytest.importorskip("hypercorn.asyncio")
    install = mocker.patch.object(hypercorn_server, "install")
    serve = mocker.patch.object(hypercorn, "serve", new=mocker.AsyncMock())
    result = run("--run_hypercorn", "--max_requests_jitter", "100")
    assert result.exit_code == 0, result.output
    assert serve.called
    assert install.called
    assert len([text for text in warned if "hypercorn" in text]) == 1


def test_metrics_on_the_proxys_own_port_are_a_usage_error(served: Any) -> None:
    pytest.importorskip("prometheus_client")
    result = CliRunner().invoke(cli, ["--port", "9464", "--resilience_metrics_port", "9464"])
    assert result.exit_code == 2
    assert "--resilience_metrics_port must not be --port" in result.output
    assert not served.called
