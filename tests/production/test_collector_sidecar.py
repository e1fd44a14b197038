"""Spend that LiteLLM's collector sidecar should write (`LITELLM_COLLECTOR_ENABLED`)."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from stack import LITELLM, Stack, StartStack

from tests.support import engine
from tests.support.postgres import Database, Postgres

SIDECAR = "litellm.proxy.collector"
REPLIES, LAST = 240, 30
HANGING = 400
"""So many that what is sent to a sidecar that hangs fills the buffers of its sockets."""
pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("litellm") is None or importlib.util.find_spec(SIDECAR) is None,
        reason="this LiteLLM has no collector",
    ),
    *([] if LITELLM[:2] == (1, 109) else [pytest.mark.lengthy]),
]


@pytest.fixture
def database(postgres: Postgres) -> Database:
    return postgres.database()


def start(start_stack: StartStack, database: Database, address: Path) -> Stack:
    stack = start_stack(
        database=database,
        environment={
            "DATABASE_URL": database.url,
            "LITELLM_COLLECTOR_ENABLED": "true",
            "LITELLM_COLLECTOR_ADDRESS": f"unix://{address}",
        },
        price=0.001,
        config={"general_settings": {"proxy_batch_write_at": 3600}},
    )
    stack.well()
    return stack


def end(stack: Stack) -> None:
    """Stop the proxy; LiteLLM alone would give a sidecar that hangs 10 s."""
    stack.signal(signal.SIGTERM)
    assert stack.ended() == 0
    assert "lost" not in stack.proxy.log_text()
    assert "after 10.0s drain timeout" not in stack.proxy.log_text()


def written(stack: Stack) -> int:
    """Return how many replies are in the database, once each, and in the key's counter."""
    rows = stack.database.query('select request_id from "LiteLLM_SpendLogs" where spend > 0')
    assert len(rows) == len(set(rows))
    spent, counted = stack.spends()
    assert counted == pytest.approx(spent)
    return len(rows)


def lines(connections: list[socket.socket]) -> int:
    """Return how many whole records were sent over connections that their client has closed."""
    found = 0
    for connection in connections:
        with connection, connection.makefile("rb") as received:
            found += received.read().count(b"\n")
    return found


def test_what_a_sidecar_that_hangs_does_not_take_is_written(
    start_stack: StartStack, database: Database, tmp_path: Path
) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(tmp_path / "spend.sock"))
        listener.listen()
        stack = start(start_stack, database, tmp_path / "spend.sock")
        key = stack.key()
        load = stack.load(key, HANGING, clients=8)
        held = sum(each["records"] for each in stack.status()["workers"])
        end(stack)
        listener.settimeout(0)
        connections = [listener.accept()[0] for _ in range(stack.workers)]
    assert load.failures == {}
    assert held > 0
    rows, taken = written(stack), lines(connections)
    print(f"{held} records held, {rows} rows written, {taken} records taken")
    assert rows > 0
    assert rows + taken == HANGING


@pytest.mark.lengthy
def test_nothing_is_missing_without_a_sidecar(
    start_stack: StartStack, database: Database, tmp_path: Path
) -> None:
    stack = start(start_stack, database, tmp_path / "spend.sock")
    assert recycled_under_load(stack) == {}
    end(stack)
    assert written(stack) == REPLIES + LAST


@pytest.mark.lengthy
def test_nothing_is_missing_with_a_sidecar(
    start_stack: StartStack, database: Database, sidecar: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    stack = start(start_stack, database, tmp_path / "spend.sock")
    stack.until((tmp_path / "spend.sock").exists, "sidecar")
    assert recycled_under_load(stack) == {}
    end(stack)
    sidecar.terminate()
    assert sidecar.wait(60) == 0
    assert f"handled={REPLIES + LAST}" in (tmp_path / "log").read_text()
    assert written(stack) == REPLIES + LAST


@pytest.fixture
def sidecar(database: Database, engines: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        **os.environ,
        **engine.environment(engines),
        "DATABASE_URL": database.url,
        "LITELLM_COLLECTOR_ADDRESS": f"unix://{tmp_path / 'spend.sock'}",
        "LITELLM_LOG": "INFO",
        "LITELLM_MASTER_KEY": "sk-" + os.urandom(32).hex(),
        "LITELLM_SALT_KEY": "sk-production-salt",
    }
    command = [sys.executable, "-m", SIDECAR]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)
    yield process
    process.kill()
    process.wait()


def recycled_under_load(stack: Stack) -> dict[str, int]:
    """Send requests before and after a roll; return what failed."""
    key = stack.key()
    failures = stack.load(key, REPLIES, clients=8).failures
    stack.roll()
    return {**failures, **stack.load(key, LAST, clients=8).failures}
