"""The service that each test starts as it needs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from supervised import Service


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service that is not started yet."""
    it = Service(tmp_path)
    yield it
    it.kill_all()
