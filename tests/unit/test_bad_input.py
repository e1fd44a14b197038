"""Bad input: every option, every environment variable and every combination that makes no sense.

Each ends with exit code 2 and one message that names what is wrong; nothing is started, and LiteLLM
is not imported. An option without a row in `BAD` fails.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from litellm_resilience.command import entry as cli
from litellm_resilience.command import options
from litellm_resilience.command.parameter_types import LARGEST_WHOLE_NUMBER

NO_INTEGERS = ["", " ", "many", "1.5", "1e3", "0x10", "nan", "inf", "-inf", "1 2", "--", "\u221e"]
NO_NUMBERS = ["", " ", "soon", "1,5", "0x10", "nan", "NaN", "inf", "-inf", "1e999", "5s", "1 2"]
BEYOND = [str(LARGEST_WHOLE_NUMBER + 1), "9" * 400]
FLAG = ["x", "maybe", "2"]

BAD: dict[str, list[str]] = {
    "max_requests_jitter": [*NO_INTEGERS, "-1", *BEYOND],
    "max_worker_memory_mb": [*NO_INTEGERS, "0", "-1", *BEYOND, "automatic", "Auto", "on", "auto,9"],
    "max_worker_lifetime": [*NO_NUMBERS, "0", "-1", "-0.0"],
    "worker_limit_jitter": [*NO_NUMBERS, "-0.1", "1", "1.5"],
    "min_worker_lifetime": [*NO_NUMBERS, "-0.1"],
    "max_restarting_workers": [*NO_INTEGERS, "0", "-1", *BEYOND],
    "max_draining_workers": [*NO_INTEGERS, "0", "-1", *BEYOND],
    "worker_boot_timeout": [*NO_NUMBERS, "0", "0.9", "-5"],
    "worker_drain_timeout": [*NO_NUMBERS, "0", "-1"],
    "worker_flush_timeout": [*NO_NUMBERS, "-1"],
    "worker_hang_timeout": [*NO_NUMBERS, "0", "0.9", "-5"],
    "reload_trial": [*NO_NUMBERS, "-0.1", "-5"],
    "watch_config": FLAG,
    "slow_callback": [*NO_NUMBERS, "-0.1", "-5"],
    "preload_modules": [
        "",
        ",",
        "json,",
        "no_such_module_here",
        "a b",
        "json..x",
        "/tmp/x.py",
        "1a",
    ],
    "keep_worker_helpers": ["", " ", ",", "a,,b", "a,", "/usr/bin/a", "a\nb", "a,b/c", "\udcff"],
    "no_preload": FLAG,
    "status_socket": ["", ".", "/", "/does/not/exist/s", f"/{'long' * 30}", __file__, "/dev/null"],
    "resilience_metrics_port": [*NO_INTEGERS, "0", "-1", "65536", "http"],
    "resilience_health_port": [*NO_INTEGERS, "0", "-1", "65536", "http"],
    "resilience_drain_delay": [*NO_NUMBERS, "-1"],
    "doctor": FLAG,
    "status": FLAG,
    "ctl": ["", "rol", "roll,stop", "ROLL", "--", "status"],
    "watch": FLAG,
    "as_json": FLAG,
    "version": FLAG,
    "plan": FLAG,
    "rps": [*NO_NUMBERS, "0", "-1", "1e-308", "1e300"],
    "boot_seconds": [*NO_NUMBERS, "0", "-1", "86401", "automatic"],
    "drain_seconds": [*NO_NUMBERS, "0", "-1", "86401"],
    "target": [*NO_NUMBERS, "0", "1", "0%", "100%", "-1%", "%", "1%%", "1%5", "1% of", "%1"],
    "pods": [*NO_INTEGERS, "0", "-1", "1000001"],
    "plot": ["", "plan", "plan.pdf", "no/such/folder/plan.svg", "/"],
    "seed": [*NO_INTEGERS],
    "num_workers": [*NO_INTEGERS, "0", "-1", "1001"],
    "max_requests_before_restart": [*NO_INTEGERS, "0", "-1", *BEYOND],
    "max_requests_before_restart_jitter": [*NO_INTEGERS, "-1", *BEYOND],
}
PLANNED = {str(option.name): option for option in options.planned_options()}
"""LiteLLM's own, which we read for a plan only."""
OPTIONS: dict[str, click.Option] = {
    str(option.name): option for option in cli.cli.params if isinstance(option, click.Option)
} | PLANNED
PLAN = ("--plan", "--max_requests_before_restart", "9", "--rps", "1", "--boot_seconds", "1")


@pytest.fixture(autouse=True)
def _nothing_starts(monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture) -> Iterator[None]:
    """Whatever the command could do is an error; the environment is nobody's."""
    for name in [name for option in OPTIONS.values() for name in variables(option)]:
        monkeypatch.delenv(name, raising=False)
    targets = (
        "litellm_resilience.command.entry._run_litellm",
        "litellm_resilience.command.doctor.run",
        "litellm_resilience.command.status.run",
        "litellm_resilience.command.ctl._tell",
        "litellm_resilience.command.plan._show",
        "litellm_resilience.plan.boot.measured_seconds",
    )
    started = [mocker.patch(target, side_effect=AssertionError(target)) for target in targets]
    before = {name for name in sys.modules if name.partition(".")[0] == "litellm"}
    yield
    assert not any(start.called for start in started)
    assert before == {name for name in sys.modules if name.partition(".")[0] == "litellm"}


def variables(option: click.Option) -> list[str]:
    """Return the environment variables that set an option."""
    found = option.envvar or []
    return [found] if isinstance(found, str) else list(found)


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(cli.cli, list(arguments), env=environment, prog_name=cli.PROGRAM)


def refused(result: Result, *named: str) -> None:
    """Check that the result is one clear error that names one of these."""
    assert result.exit_code == 2, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    errors = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, result.output
    assert any(name in errors[0] for name in named), result.output


def mode_of(option: click.Option, *, by_variable: bool = False) -> tuple[str, ...]:
    """Return what else must be given for an option to be read."""
    if option.name not in PLANNED and option not in PLANNING:
        return ()
    given = by_variable and option.name == "max_requests_before_restart"
    return ("--plan", "--rps", "1") if given else PLAN


PLANNING = [
    option
    for option in OPTIONS.values()
    if option.name in {planning.name for planning in options.planning_options()}
    and option.name != "plan"
]
SPELLINGS = [
    (option, spelling)
    for option in OPTIONS.values()
    for spelling in option.opts
    if spelling.startswith("--")
]
BY_VARIABLE = [(option, name) for option in OPTIONS.values() for name in variables(option)]


def test_every_option_has_a_row() -> None:
    assert set(BAD) == set(OPTIONS)
    assert all(BAD.values())


@pytest.mark.parametrize(("option", "spelling"), SPELLINGS, ids=[name for _, name in SPELLINGS])
def test_a_bad_value_is_a_usage_error(option: click.Option, spelling: str) -> None:
    for value in BAD[str(option.name)]:
        refused(run(*mode_of(option), f"{spelling}={value}"), *option.opts)
        if not option.is_flag:
            refused(run(*mode_of(option), spelling, value, "--port", "4000"), *option.opts)


@pytest.mark.parametrize(("option", "spelling"), SPELLINGS, ids=[name for _, name in SPELLINGS])
def test_a_missing_value_is_a_usage_error(option: click.Option, spelling: str) -> None:
    if not option.is_flag:
        refused(run(*mode_of(option), spelling), spelling)


@pytest.mark.parametrize(("option", "name"), BY_VARIABLE, ids=[name for _, name in BY_VARIABLE])
def test_a_bad_environment_variable_is_a_usage_error(option: click.Option, name: str) -> None:
    """One that is empty is not set, as ever."""
    for value in filter(None, BAD[str(option.name)]):
        refused(run(*mode_of(option, by_variable=True), **{name: value}), *option.opts)


@pytest.mark.parametrize(
    ("variables", "port"),
    [
        ({"RESILIENCE_METRICS_PORT": "tcp://10.0.0.1:80"}, None),
        ({"LITELLM_RESILIENCE_METRICS_PORT": "udp://[fd00::1]:80"}, None),
        ({"RESILIENCE_METRICS_PORT": "9464"}, 9464),
        (
            {
                "LITELLM_RESILIENCE_METRICS_PORT": "9464",
                "RESILIENCE_METRICS_PORT": "tcp://10.0.0.1:80",
            },
            9464,
        ),
        (
            {
                "LITELLM_RESILIENCE_METRICS_PORT": "tcp://10.0.0.1:80",
                "RESILIENCE_METRICS_PORT": "1",
            },
            1,
        ),
        ({"LITELLM_RESILIENCE_METRICS_PORT": "2", "RESILIENCE_METRICS_PORT": "1"}, 2),
    ],
)
def test_the_address_of_a_service_is_no_port(
    variables: dict[str, str], port: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubernetes sets `RESILIENCE_METRICS_PORT` for a Service called `resilience-metrics`."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    command = click.Command("x", params=[OPTIONS["resilience_metrics_port"]])
    assert command.make_context("x", []).params == {"resilience_metrics_port": port}


@pytest.mark.parametrize("value", ["typo", "stream-release,typo", "*", "stream-release;typo"])
@pytest.mark.parametrize("mode", ["--doctor", "--port=4000"])
def test_an_unknown_patch_to_disable_is_a_usage_error(value: str, mode: str) -> None:
    refused(run(mode, LITELLM_RESILIENCE_DISABLE=value), "unknown patches")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NOTIFY_SOCKET", "notify"),
        ("WATCHDOG_USEC", "soon"),
        ("LISTEN_FDS", "one"),
        ("LISTEN_FDS", "1000"),
        ("LISTEN_FDS", "9" * 30),
        ("LISTEN_PID", "-1"),
    ],
)
def test_what_no_service_manager_gives_is_a_usage_error(name: str, value: str) -> None:
    managed = {"NOTIFY_SOCKET": "@x", "LISTEN_PID": str(os.getpid()), name: value}
    refused(run("--port", "4000", **managed), name)


COMBINATIONS = [
    (["--doctor", "--status"], "--doctor and --status exclude"),
    (["--doctor", "--plan"], "--doctor and --plan exclude"),
    (["--status", "--plan"], "--status and --plan exclude"),
    (["--doctor", "--status", "--plan"], "--doctor and --status and --plan exclude"),
    (["--doctor", "--ctl", "roll"], "--doctor and --ctl exclude"),
    (["--status", "--ctl", "roll"], "--status and --ctl exclude"),
    (["--ctl", "roll", *PLAN], "--ctl and --plan exclude"),
    (["--ctl", "roll", "--watch"], "--watch goes with --status"),
    (["--ctl", "recycle"], "recycle takes one argument, N"),
    (["--ctl", "roll", "--num_workers", "3"], "--num_workers"),
    (["--status", "--port", "many"], "--port"),
    (["--resilience_drain_delay", "5"], "--resilience_drain_delay needs --resilience_health_port"),
    (
        ["--resilience_health_port", "9", "--resilience_metrics_port", "9"],
        "--resilience_health_port must not be --resilience_metrics_port",
    ),
    (["--watch_config"], "--watch_config needs --config"),
    (["--watch_config", "--port", "4000"], "--watch_config needs --config"),
    (["--watch_config", "--doctor"], "--watch_config needs --config"),
    (["--watch_config", "--config", "/dev/null"], "'/dev/null' is none"),
    (["--watch_config", "--config=/dev"], "'/dev' is none"),
    (["--watch"], "--watch goes with --status"),
    (["--watch", "--doctor"], "--watch goes with --status"),
    (["--watch", *PLAN], "--watch goes with --status"),
    (["--json"], "--json goes with"),
    (["--json", "--watch"], "--json goes with"),
    (["--json", "--config", "config.yaml"], "--json goes with"),
    (["--watch", "--json"], "--json goes with"),
    (["--plan", "--rps", "1"], "--max_requests_before_restart"),
    (["--plan", "--max_requests_before_restart", "9"], "--rps"),
    (
        [*PLAN, "--max_requests_jitter", "5", "--max_requests_before_restart_jitter", "6"],
        "different values",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), COMBINATIONS)
def test_a_combination_that_makes_no_sense_is_a_usage_error(
    arguments: list[str], message: str
) -> None:
    refused(run(*arguments), message)


def test_a_config_in_a_bucket_cannot_be_watched() -> None:
    bucket = {"LITELLM_CONFIG_BUCKET_NAME": "b", "WATCH_CONFIG": "true"}
    refused(run("--config", __file__, **bucket), "--watch_config needs a file")


@pytest.mark.parametrize("option", PLANNING, ids=lambda option: option.name)
@pytest.mark.parametrize("mode", [[], ["--status"], ["--doctor"]])
def test_an_option_of_a_plan_without_one_is_a_usage_error(
    option: click.Option, mode: list[str]
) -> None:
    good = {"plot": "plan.svg", "target": "1%"}.get(str(option.name), "1")
    refused(run(*mode, option.opts[0], good), f"{option.opts[0]} goes with --plan")


@pytest.mark.skipif(
    importlib.util.find_spec("prometheus_client") is not None, reason="it is installed"
)
@pytest.mark.parametrize("mode", [[], ["--doctor"]])
def test_metrics_without_their_library_are_a_usage_error(mode: list[str]) -> None:
    refused(run(*mode, "--resilience_metrics_port", "9464"), "--resilience_metrics_port needs")


ARGUMENTS = st.text(max_size=30).filter(lambda text: "\x00" not in text)
VALUED = [option for option in OPTIONS.values() if not option.is_flag and not mode_of(option)]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(option=st.sampled_from(VALUED), value=ARGUMENTS)
@example(OPTIONS["status_socket"], "\udcff" * 50)
@example(VALUED[0], "%s%n{0}")
def test_no_text_is_a_traceback(option: click.Option, value: str) -> None:
    """Where a text is a good value, something else is wrong here."""
    result = run(option.opts[0], value, "--watch")
    assert result.exit_code == 2, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("option", ["--status_socket", "--plot"])
def test_a_folder_that_may_not_be_entered_is_a_usage_error(tmp_path: Path, option: str) -> None:
    (tmp_path / "closed" / "inner").mkdir(parents=True)
    (tmp_path / "closed").chmod(0o700)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setuid(65534)
            mode = PLAN if option == "--plot" else ()
            result = run(*mode, option, str(tmp_path / "closed" / "inner" / "s.svg"))
            os.write(writing, repr((result.exit_code, result.output)).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as told:
        outcome = told.read()
    assert outcome.startswith("(2,"), outcome
    assert option in outcome
