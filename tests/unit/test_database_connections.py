"""How many connections the workers may open, as --plan and --doctor say it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pytest_mock import MockerFixture

from litellm_resilience.command import database, doctor
from litellm_resilience.command.database import AskingError, Database
from litellm_resilience.command.entry import cli
from litellm_resilience.demo.proxy import free_port
from litellm_resilience.plan import connections, deploy, outlook

URL = "postgresql://user:hidden@127.0.0.1:5432/llm"
PLAN = (
    *("--plan", "--num_workers", "4", "--max_requests_before_restart", "1000"),
    *("--rps", "40", "--boot_seconds", "12"),
)


@pytest.fixture(autouse=True)
def _no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("URL", "HOST", "USERNAME", "PASSWORD", "NAME")
    for name in (*(f"DATABASE_{name}" for name in names), "NUM_WORKERS"):
        monkeypatch.delenv(name, raising=False)


def config(folder: Path, settings: object) -> str:
    file = folder / "config.yaml"
    file.write_text(json.dumps({"general_settings": settings}))
    return str(file)


class TestConfigured:
    def test_without_a_database_nothing_is_known(self, tmp_path: Path) -> None:
        assert database.configured(None) is None
        assert database.configured(config(tmp_path, {"master_key": "sk-1"})) is None

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({}, 10),
            ({"database_connection_pool_limit": 3}, 3),
            (
                {
                    "database_connection_pool_limit": 3,
                    "database_extra_connection_params": {"connection_limit": 5},
                },
                5,
            ),
        ],
    )
    def test_the_pool_is_litellms(
        self,
        settings: dict[str, Any],
        expected: int,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        pytest.importorskip("yaml")
        monkeypatch.setenv("DATABASE_URL", URL)
        assert database.configured(config(tmp_path, settings)) == Database(URL, expected)

    def test_the_address_may_be_in_the_config(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("yaml")
        assert database.configured(config(tmp_path, {"database_url": URL})) == Database(URL)
        monkeypatch.setenv("MY_DATABASE", URL)
        named = config(tmp_path, {"database_url": "os.environ/MY_DATABASE"})
        assert database.configured(named) == Database(URL)

    def test_the_address_may_be_in_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        parts = {"HOST": "db:5432", "USERNAME": "a b", "PASSWORD": "p@ss", "NAME": "llm"}
        for name, value in parts.items():
            monkeypatch.setenv(f"DATABASE_{name}", value)
        assert database.configured(None) == Database("postgresql://a+b:p%40ss@db:5432/llm")

    @pytest.mark.parametrize("text", ["[", "general_settings: 3", "- 1", "", "\0"])
    def test_a_config_that_says_nothing_is_left_to_litellm(
        self, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "config.yaml"
        file.write_text(text)
        monkeypatch.setenv("DATABASE_URL", URL)
        assert database.configured(str(file)) == Database(URL)
        assert database.configured(str(tmp_path / "none.yaml")) == Database(URL)

    def test_a_pool_that_is_no_number_is_not_guessed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("yaml")
        monkeypatch.setenv("DATABASE_URL", URL)
        asked = {"database_connection_pool_limit": "os.environ/LIMIT"}
        assert database.configured(config(tmp_path, asked)) is None


def test_workers_booting_and_draining_are_counted() -> None:
    found = connections.of(workers=4, max_restarting=1, pool_limit=10)
    assert (found.upstream, found.ours) == (40, 60)
    assert found.sum == "60 = (4 serving + 1 booting + 1 draining) x a pool of 10"
    assert connections.of(workers=1, max_restarting=8, pool_limit=10).ours == 30
    assert connections.of(workers=4, max_restarting=1, pool_limit=10, draining=3).ours == 80


class TestPlan:
    @pytest.fixture(autouse=True)
    def _short(self, mocker: MockerFixture) -> None:
        mocker.patch.object(outlook, "MOST_RECYCLES", 50)
        mocker.patch.object(deploy, "SIMULATED_DEPLOYS", 100)

    def test_it_says_them_where_a_database_is_known(self) -> None:
        runner = CliRunner(env={"DATABASE_URL": URL})
        lines = [" ".join(line.split()) for line in runner.invoke(cli, PLAN).output.splitlines()]
        plan = json.loads(runner.invoke(cli, [*PLAN, "--json"]).stdout)
        draining = plan["ours"]["most_draining"]
        assert draining > 1
        most = (4 + 1 + draining) * 10
        assert f"database connections, up to 40 {most}" in lines
        reckoned = f"{most} = (4 serving + 1 booting + {draining} draining) x a pool of 10"
        assert f"Database connections of a pod: up to {reckoned}." in lines
        assert plan["database_connections"]["ours"] == most
        assert "hidden" not in json.dumps(plan)

    def test_it_is_silent_elsewhere(self) -> None:
        assert "onnections" not in CliRunner().invoke(cli, PLAN).output
        plan = json.loads(CliRunner().invoke(cli, [*PLAN, "--json"]).stdout)
        assert plan["database_connections"] is None


class TestDoctor:
    ARGUMENTS = ("--doctor", "--num_workers", "4", "--port", "4000")

    def test_without_a_database_nothing_is_asked(self) -> None:
        assert doctor._check_database(doctor._given(self.ARGUMENTS)) is None

    @pytest.mark.parametrize(("allowed", "problem"), [(60, None), (59, "the database allows 59")])
    def test_it_warns_if_the_database_allows_fewer(
        self,
        allowed: int,
        problem: str | None,
        mocker: MockerFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("DATABASE_URL", URL)
        mocker.patch.object(database, "allowed_connections", return_value=allowed)
        checked = doctor._check_database(doctor._given(self.ARGUMENTS))
        assert checked is not None
        assert checked.connections.ours == 60
        assert (checked.problem or "").startswith(problem or "")
        assert bool(checked.problem) is bool(problem)

    def test_it_says_when_it_could_not_ask(
        self, mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATABASE_URL", URL)
        mocker.patch.object(database, "allowed_connections", side_effect=AskingError("why"))
        checked = doctor._check_database(doctor._given(self.ARGUMENTS))
        assert checked is not None
        assert checked.problem == "how many it allows could not be asked: why"


class TestAsking:
    def test_without_a_client_it_says_so(self, mocker: MockerFixture) -> None:
        mocker.patch.dict("sys.modules", {"psycopg": None})
        with pytest.raises(AskingError, match="psycopg is not installed"):
            database.allowed_connections(Database(URL))

    def test_a_database_that_is_down_costs_a_word_and_no_secret(self) -> None:
        pytest.importorskip("psycopg")
        down = Database(f"postgresql://user:hidden@127.0.0.1:{free_port()}/llm?connection_limit=3")
        with pytest.raises(AskingError) as caught:
            database.allowed_connections(down)
        assert "OperationalError" in str(caught.value)
        assert "hidden" not in str(caught.value) + repr(down)

    def test_what_only_prisma_knows_is_not_passed_on(self) -> None:
        url = f"{URL}?connection_limit=3&schema=x&sslmode=require&pool_timeout=60"
        assert database._for_libpq(url) == f"{URL}?sslmode=require"
