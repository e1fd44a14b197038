"""New Relic's agent, whose threads do not come back in a forked worker.

It connects as soon as an instrumented module is imported. Here that waits until the worker serves,
so that each worker has its own session, as a spawned one has.
"""

from __future__ import annotations

import os
import sys
from typing import Any

MODULE = "newrelic.core.agent"
ACTIVATE = "activate_application"


class NewRelic:
    """The agent of this process, if the command was started with `newrelic-admin`."""

    def __init__(self) -> None:
        self._agent: Any = None
        self._activate: Any = None
        self._held: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def hold(self) -> None:
        """Let no application connect until `release`. Idempotent."""
        agent = getattr(sys.modules.get(MODULE), "Agent", None)
        if self._activate is not None or not hasattr(agent, ACTIVATE):
            return
        self._agent, self._activate = agent, getattr(agent, ACTIVATE)

        def held(instance: Any, *args: Any, **kwargs: Any) -> None:
            self._held.append((instance, args, kwargs))

        setattr(agent, ACTIVATE, held)

    def release(self) -> None:
        """Connect now, from this process. Idempotent."""
        if self._activate is None:
            return
        activate, self._activate = self._activate, None
        setattr(self._agent, ACTIVATE, activate)
        for instance, args, kwargs in self._held:
            instance._process_id = os.getpid()
            activate(instance, *args, **kwargs)
        self._held.clear()
