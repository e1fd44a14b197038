"""What is refused and answered before LiteLLM is imported."""

from __future__ import annotations

import importlib.util
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from pytest_mock import MockerFixture

from litellm_resilience.command import combined, early, options
from litellm_resilience.servers import declared

SOURCE = '''
@click.command(context_settings={"help_option_names": ["--help"]})
@click.argument("cli_args", nargs=-1)
@click.option("--host", default="0.0.0.0", help="Host.", envvar="HOST")
@click.option("--port", default=4000, help="Port.", envvar="PORT")
@click.option("--num_workers", default=SOME_CONSTANT, help=f"Number of {WORKERS}.")
@click.option("--api_version", default=SOME_VERSION)
@click.option("--config", "-c", default=None)
@click.option("--threads", default=None, type=click.IntRange(min=1))
@click.option("--debug", is_flag=True, type=bool)
@click.option("--health", flag_value=True)
@click.option("--run_granian", is_flag=True)
@click.option("--version", "-v", is_flag=True)
def run_server(host, port):
    """Do not run this."""
'''
NOTHING_IMPORTED = """
import sys
from litellm_resilience.command.entry import main
try:
    main()
finally:
    assert "litellm" not in sys.modules, "LiteLLM was imported"
"""


@pytest.fixture(autouse=True)
def _source(tmp_path: Path, mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "constants.py").write_text("SOME_CONSTANT: Final = int(os.getenv('SOME', 1))\n")
    path = tmp_path / "proxy" / "proxy_cli.py"
    path.parent.mkdir()
    path.write_text(SOURCE)
    mocker.patch.object(declared, "missing", return_value=[])
    mocker.patch.object(declared, "source", return_value=path)
    for name in ("HOST", "PORT", "LITELLM_CONFIG_BUCKET_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def check(*arguments: str) -> None:
    early.check(arguments, "litellm-resilient")


def refused(*arguments: str) -> str:
    with early.one_sentence(), pytest.raises(click.ClickException) as caught:
        check(*arguments)
    assert caught.value.exit_code == 2
    return caught.value.format_message()


def test_a_misspelt_option_is_refused_with_the_right_one() -> None:
    assert "--num_workers" in refused("--nun_workers", "2")
    assert "--max_requests_jitter" in refused("--max_request_jitter", "2")


def test_each_option_that_may_have_been_meant_is_named_once() -> None:
    with pytest.raises(early.RefusedError) as caught, early.one_sentence():
        check("--max_request_jitter", "3")
    assert "'--max_requests_jitter'" in caught.value.message
    assert "-requests-" not in caught.value.message


@pytest.mark.parametrize(
    "arguments",
    [("--port", "x"), ("--threads", "0"), ("--threads", "many"), ("--num_workers", "two")],
)
def test_a_bad_value_of_litellms_own_option_is_refused(arguments: tuple[str, str]) -> None:
    assert arguments[0] in refused(*arguments)


def test_what_litellm_would_accept_is_not_refused(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.touch()
    check("--api_version", "many", "--port", "0", "-c", str(config), "--debug", "anything")


@pytest.mark.parametrize(
    ("name", "reason"), [("none.yaml", "No such file"), (".", "directory"), ("\0", "null")]
)
def test_a_config_file_that_cannot_be_read_is_refused(
    tmp_path: Path, name: str, reason: str
) -> None:
    message = refused("--config", str(tmp_path / name), "--port", "0")
    assert message.startswith("The config file ")
    assert reason in message


def test_a_config_file_in_a_bucket_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_CONFIG_BUCKET_NAME", "bucket")
    check("--config", "none.yaml", "--port", "0")


def test_a_taken_port_is_refused(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{taken}"
    assert refused("--host", "127.0.0.1", "--port", str(taken)).startswith(
        f"Cannot listen on {address}: "
    )
    monkeypatch.setenv("PORT", str(taken))
    assert address in refused("--host", "127.0.0.1")
    assert "65536" in refused("--host", "127.0.0.1", "--port", "65536")


def test_a_port_that_is_free_again_is_not_refused(taken: int) -> None:
    """One whose last connection is in TIME_WAIT."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = listener.accept()
            accepted.close()
    check("--host", "127.0.0.1", "--port", str(port))


@pytest.mark.parametrize("flag", ["--health", "--run_granian"])
def test_a_taken_port_is_not_refused_where_we_do_not_know_that_it_is_needed(
    taken: int, flag: str
) -> None:
    check("--host", "127.0.0.1", "--port", str(taken), flag)


def test_the_port_that_litellm_replaces_if_it_is_taken_is_left_to_it(mocker: MockerFixture) -> None:
    bind = mocker.patch("socket.socket")
    check()
    check("--port", "4000")
    assert not bind.called


def test_sockets_that_are_given_are_not_asked_for(taken: int, mocker: MockerFixture) -> None:
    mocker.patch.object(early, "GIVEN_SOCKETS", new=True)
    check("--host", "127.0.0.1", "--port", str(taken))


def test_a_litellm_without_its_proxy_is_refused(mocker: MockerFixture) -> None:
    mocker.patch.object(declared, "missing", return_value=["fastapi", "orjson"])
    message = refused("--port", "0")
    assert "fastapi, orjson" in message
    assert "pip install 'litellm[proxy]'" in message


@pytest.mark.parametrize(
    "change",
    [
        ("@click.command(", "@group.command("),
        ('@click.option("--health",', '@click.option("--health", cls=Special,'),
        ("click.IntRange(min=1)", "click.IntRange(min=LEAST)"),
        ("def run_server", "def serve"),
        ("@click.argument", "@other.argument"),
        ("run_server(", "run_server(("),
    ],
)
def test_a_source_that_is_not_understood_is_left_to_litellm(
    tmp_path: Path, change: tuple[str, str]
) -> None:
    path = tmp_path / "other.py"
    path.write_text(SOURCE.replace(*change))
    assert declared.read(path) is None
    assert declared.read(tmp_path / "none.py") is None


def help_text() -> str:
    command = combined.CombinedCommand(click.Command("run_server", params=[]))
    return click.Context(command, info_name="x", terminal_width=80).get_help()


def test_the_help_has_every_option_of_ours_once_under_its_purpose() -> None:
    text = help_text()
    assert combined.OTHERS not in text, "give the option its place in combined.SECTIONS"
    ours = [*options.serving_options(), *options.inspection_options(), *options.planning_options()]
    for option in ours:
        found = re.findall(rf"^  (?:-\w, )?{re.escape(option.opts[0])}(?:\s|$)", text, re.MULTILINE)
        assert len(found) == 1, option.name


def test_the_help_shows_no_bounds_that_nobody_needs() -> None:
    assert "<=x" not in help_text()
    assert "2147483647" not in help_text()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", NOTHING_IMPORTED, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.skipif(importlib.util.find_spec("litellm") is None, reason="LiteLLM is not installed")
def test_the_help_comes_from_the_installed_litellm_without_importing_it() -> None:
    result = run("--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "--run_gunicorn" in result.stdout


@pytest.mark.skipif(importlib.util.find_spec("litellm") is None, reason="LiteLLM is not installed")
def test_a_misspelt_option_is_one_line_and_imports_nothing() -> None:
    result = run("--nun_workers", "2")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1
