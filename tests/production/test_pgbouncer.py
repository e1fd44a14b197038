"""LiteLLM's own pgbouncer (`LITELLM_PGBOUNCER_ENABLED`), with forked workers and at an upgrade."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from stack import Stack, StartStack, forked

from litellm_resilience.demo.proxy import free_port
from tests.support.postgres import Postgres

NAME = "litellm.proxy.db.pgbouncer"
PASSED_OFF = "1.19.0"
"""LiteLLM refuses what is older: that would serve on without its port if it is taken."""
pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("litellm") is None or importlib.util.find_spec(NAME) is None,
        reason="this LiteLLM has no pgbouncer",
    ),
    pytest.mark.lengthy,
]


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    """Debian 12 has 1.18, and nobody else takes the ports here."""
    found = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.skip("no pgbouncer")
    program = tmp_path / "pgbouncer"
    program.write_text(
        f'#!/bin/sh\nif [ "$1" = --version ]; then echo PgBouncer {PASSED_OFF}; exit; fi\n'
        f'exec {found} "$@"\n'
    )
    program.chmod(0o755)
    return program


@pytest.fixture
def shared(start_stack: StartStack, postgres: Postgres, binary: Path) -> Stack:
    database = postgres.database()
    return start_stack(
        database=database,
        environment={
            "DATABASE_URL": database.url.replace("@", ":any@"),
            # It runs as nobody, who must reach its files there.
            "TMPDIR": tempfile.gettempdir(),
            "LITELLM_PGBOUNCER_ENABLED": "true",
            "LITELLM_PGBOUNCER_BINARY": str(binary),
            "LITELLM_PGBOUNCER_PORT": str(free_port()),
        },
        price=0.001,
        config={"general_settings": {"proxy_batch_write_at": 3600}},
    )


def test_an_upgrade_costs_no_request_and_no_record(shared: Stack) -> None:
    """The workers of the old proxy write what they hold through the old pgbouncer."""
    stack, key = shared, shared.key()
    assert forked(stack.announced)
    replies = stack.upgrade(key) + stack.upgrade(key)
    stack.signal(signal.SIGTERM)
    assert stack.ended() == 0
    rows = Counter(stack.database.query('select request_id from "LiteLLM_SpendLogs"'))
    assert (len(rows), sum(rows.values())) == (replies, replies)
    stack.leaves_nothing()
