"""Measures how long a worker of this install takes to boot."""

from __future__ import annotations

import os
import subprocess
import sys
import time

BOOT_TIMEOUT = 300.0
IMPORTS = "import litellm.proxy.proxy_cli, litellm.proxy.proxy_server"
"""What uvicorn's new worker imports: the command as its main module, then the application."""


class BootError(RuntimeError):
    """It could not be measured."""


def measured_seconds() -> float:
    """Import LiteLLM's proxy in a process of its own and return the seconds that took.

    Raises:
        BootError: it cannot be imported, or not in time.
    """
    began = time.perf_counter()
    try:
        subprocess.run(  # noqa: S603
            [sys.executable, "-c", IMPORTS],
            check=True,
            capture_output=True,
            text=True,
            timeout=BOOT_TIMEOUT,
            env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        )
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise BootError(f"LiteLLM's proxy cannot be imported: {last}") from error
    except subprocess.TimeoutExpired as error:
        raise BootError(f"LiteLLM's proxy was not imported within {BOOT_TIMEOUT:g} s") from error
    return time.perf_counter() - began
