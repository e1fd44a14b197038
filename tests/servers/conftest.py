"""The service that each test starts as it needs it."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from supervised import Service


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service that is not started yet."""
    it = Service(tmp_path)
    yield it
    it.kill_all()


@pytest.fixture
def certificate(service: Service, tmp_path: Path) -> dict[str, Any]:
    """What has uvicorn serve TLS; clients of the service trust it."""
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificate with openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    service.context = ssl.create_default_context(cafile=str(certificate))
    return {"ssl_keyfile": str(key), "ssl_certfile": str(certificate)}
