"""Which port LiteLLM's own pgbouncer gets at an upgrade in place."""

from __future__ import annotations

import importlib
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from litellm_resilience.repairs.base import Changes
from litellm_resilience.servers import companions
from litellm_resilience.supervisor import takeover


@pytest.mark.parametrize(
    ("upgrade", "collector", "taken", "moves"),
    [
        (True, "", True, True),
        (True, "false", True, True),
        (True, "true", True, False),
        (True, "", False, False),
        (False, "", True, False),
    ],
)
def test_it_is_another_one_only_while_the_old_proxy_has_its_own(
    upgrade: bool, collector: str, taken: bool, moves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = importlib.import_module("litellm.proxy.proxy_cli")
    if not hasattr(command, companions.STARTS_PGBOUNCER):
        pytest.skip("this LiteLLM starts no pgbouncer")
    settings = importlib.import_module("litellm.proxy.db.pgbouncer").PgBouncerSettings
    started: list[Any] = []

    def start(settings: Any, upstream_url: str, token_auth: Any = None) -> str:
        started.append((settings, upstream_url, token_auth))
        return "pooled"

    monkeypatch.setattr(command, companions.STARTS_PGBOUNCER, start)
    monkeypatch.setattr(takeover, "given", lambda: SimpleNamespace() if upgrade else None)
    monkeypatch.setenv(companions.COLLECTOR, collector)
    changes = Changes()
    with socket.create_server((companions.PGBOUNCER_HOST, 0)) as other:
        port = other.getsockname()[1]
        if not taken:
            other.close()
        companions.move_pgbouncer(changes)
        pooled = getattr(command, companions.STARTS_PGBOUNCER)(
            settings(port=port, max_db_connections=7), "url", token_auth="token"
        )
    changes.undo()
    ((given, url, token),) = started
    assert (pooled, url, token, given.max_db_connections) == ("pooled", "url", "token", 7)
    assert (given.port != port) is moves
    assert companions.is_free(companions.PGBOUNCER_HOST, given.port)
