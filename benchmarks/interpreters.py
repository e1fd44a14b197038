"""An interpreter with its own LiteLLM for each line: one of tox's, as `tox.ini` describes them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.commands import checkout_environment
from benchmarks.setups import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

INSTALLED = "installed"
"""Stands for the line that this interpreter has."""
FOLDER = ROOT / ".tox"
QUERY = """
import json, litellm.proxy.proxy_server
from litellm_resilience.status.versions import report
print("\\n" + json.dumps(report()))
"""
"""Loads LiteLLM, so that the side that is measured first has no disadvantage."""


class UnusableError(Exception):
    """An interpreter could not be made, or has another LiteLLM."""


def environment(line: str, *, production: bool) -> str:
    """The name of a line's environment in `tox.ini`.

    Args:
        line: LiteLLM version.
        production: with what LiteLLM needs for databases and telemetry.
    """
    version = f"py{sys.version_info.major}{sys.version_info.minor}"
    return f"{version}-litellm{line.replace('.', '_')}{'-production' * production}"


def prepare(
    line: str, given: Mapping[str, Path], *, production: bool
) -> tuple[Path, dict[str, str | None]]:
    """Return an interpreter for a line, and the versions of what it has, by name.

    Args:
        line: LiteLLM version, or `INSTALLED`.
        given: interpreters to be used as they are, by line.
        production: see `environment`.

    Raises:
        UnusableError: tox cannot make it, or it has another LiteLLM.
    """
    python = Path(sys.executable) if line == INSTALLED else given.get(line)
    python = python or _made(environment(line, production=production))
    *_, answer = _output([str(python), "-c", QUERY]).splitlines()
    versions: dict[str, str | None] = json.loads(answer)
    if line not in {INSTALLED, versions["litellm"]}:
        raise UnusableError(f"{python} has LiteLLM {versions['litellm']}, not {line}")
    if not python.with_name("litellm").exists():
        raise UnusableError(f"there is no litellm beside {python}")
    return python, versions


def _made(name: str) -> Path:
    tox = shutil.which("tox")
    if tox is None:
        raise UnusableError("tox is not installed: install it, or name interpreters with --python")
    print(f"tox makes {name}, if it is not there", file=sys.stderr, flush=True)
    _output([tox, "run", "--workdir", str(FOLDER), "--notest", "--skip-pkg-install", "-e", name])
    return FOLDER / name / "bin" / "python"


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, **checkout_environment()},
        )
    except OSError as error:
        raise UnusableError(str(error)) from error
    except subprocess.CalledProcessError as error:
        raise UnusableError(f"{error}\n{error.stdout[-2000:]}{error.stderr[-2000:]}") from error
    return done.stdout
