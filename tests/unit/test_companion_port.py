"""The program that waits for the port of LiteLLM's metrics."""

from __future__ import annotations

import socket

from litellm_resilience.servers.companions import wait_for_port


def test_it_waits_until_nobody_listens() -> None:
    looks = 0
    with socket.create_server(("127.0.0.1", 0)) as other:
        host, port = other.getsockname()

        def wanted() -> bool:
            nonlocal looks
            looks += 1
            if looks == 3:
                other.close()
            return True

        assert wait_for_port(host, port, wanted)
    assert looks >= 3


def test_it_gives_up_once_nobody_wants_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        host, port = other.getsockname()
        answers = iter([True, False])
        assert not wait_for_port(host, port, lambda: next(answers))
