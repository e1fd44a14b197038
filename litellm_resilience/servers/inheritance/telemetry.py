"""OpenTelemetry's resources that say which process a span comes from.

Newer versions of its SDK renew the resources of their providers at a fork, older ones do not.
"""

from __future__ import annotations

import os
import sys
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

PROCESS = "process.pid"
INSTANCE = "service.instance.id"
ATTRIBUTES_VARIABLE = "OTEL_RESOURCE_ATTRIBUTES"


class Resources:
    """The resources made before the fork."""

    def __init__(self) -> None:
        self._found: list[dict[str, Any]] = []

    def find(self, objects: Iterable[Any]) -> None:
        """Remember them; spans refer to them, so they are changed in place."""
        module = sys.modules.get("opentelemetry.sdk.resources")
        if module is not None:
            self._found = [
                thing._attributes._dict for thing in objects if type(thing) is module.Resource
            ]

    def renew(self) -> None:
        """Name this process; an instance that the operator has named keeps its name."""
        fresh: dict[Any, str] = {}
        named = INSTANCE in os.environ.get(ATTRIBUTES_VARIABLE, "")
        for attributes in self._found:
            if PROCESS in attributes:
                attributes[PROCESS] = os.getpid()
            if INSTANCE in attributes and not named:
                old = attributes[INSTANCE]
                attributes[INSTANCE] = fresh.setdefault(old, str(uuid.uuid4()))
