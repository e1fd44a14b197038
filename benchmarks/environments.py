"""An interpreter with its own LiteLLM for each line, made when first needed.

What a line needs beside itself is read from `tox.ini`, which the tests are installed from.
"""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.commands import checkout_environment, of_interpreter
from benchmarks.setups import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

INSTALLED = "installed"
"""Stands for the line that this interpreter has."""
INSTALLED_LIST = ".installed"
"""File in an environment that is complete: what was asked for."""
QUERY = (
    "import json; from litellm_resilience.status.versions import report; "
    "print(json.dumps(report()))"
)


class UnusableError(Exception):
    """An environment could not be made, or has another LiteLLM."""


@dataclass(frozen=True)
class Environment:
    """An interpreter for one line.

    Attributes:
        line: LiteLLM version.
        python: the interpreter.
        versions: what is installed, by name.
    """

    line: str
    python: Path
    versions: Mapping[str, str | None]


@dataclass(frozen=True)
class Requirements:
    """What to install for a line.

    Attributes:
        packages: requirement specifiers.
        overrides: a file for uv's ``--override``, or None.
    """

    packages: tuple[str, ...]
    overrides: Path | None = None

    @classmethod
    def of(cls, line: str, tox: Path = ROOT / "tox.ini") -> Requirements:
        """Return the requirements of a line: those of `tox.ini`, if it is there."""
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(tox, encoding="utf-8")
        factor = f"litellm{line.replace('.', '_')}:"
        section = parser["testenv"]
        listed = [text.strip() for text in section["deps"].splitlines()]
        packages = [text.removeprefix(factor).strip() for text in listed if text.startswith(factor)]
        overrides = None
        for text in section["set_env"].splitlines():
            name, _, value = text.partition("=")
            if name.strip() == f"{factor} UV_OVERRIDE":
                overrides = ROOT / value.strip()
        return cls(tuple(packages) or (f"litellm[proxy]=={line}",), overrides)


def default_cache() -> Path:
    """The folder that environments are made in unless another is asked for."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "litellm-resilience" / "benchmarks"


def prepare(
    line: str, cache: Path, given: Mapping[str, Path], packages: Iterable[str] = ()
) -> Environment:
    """Return an environment for a line; install it if it is not there yet.

    Args:
        line: LiteLLM version, or `INSTALLED`.
        cache: where environments are made.
        given: interpreters to be used as they are, by line.
        packages: what to install beside what the line needs.

    Raises:
        UnusableError: it cannot be made, or has another LiteLLM.
    """
    if line == INSTALLED:
        python = Path(sys.executable)
    elif line in given:
        python = given[line]
    else:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        python = _made(line, cache / f"litellm-{line}-py{version}", packages)
    versions = _versions(python)
    found = versions["litellm"]
    if found is None or line not in {INSTALLED, found}:
        raise UnusableError(f"{python} has LiteLLM {found}, not {line}")
    if not Path(of_interpreter(python)["plain"][0]).exists():
        raise UnusableError(f"there is no litellm beside {python}")
    return Environment(found, python, versions)


def warm(environment: Environment) -> None:
    """Read LiteLLM from disk once, so that the side that is measured first has no disadvantage."""
    subprocess.run(
        [str(environment.python), "-c", "import litellm.proxy.proxy_server"],
        check=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **checkout_environment()},
    )


def _made(line: str, directory: Path, packages: Iterable[str]) -> Path:
    python, complete = directory / "bin" / "python", directory / INSTALLED_LIST
    needs = Requirements.of(line)
    wanted = [*needs.packages, *packages]
    if complete.exists() and complete.read_text(encoding="utf-8").splitlines() == wanted:
        return python
    shutil.rmtree(directory, ignore_errors=True)
    print(f"installing LiteLLM {line} into {directory}", file=sys.stderr, flush=True)
    uv = shutil.which("uv")
    if uv is not None:
        install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "-p", str(python)]
        install += ["--override", str(needs.overrides)] if needs.overrides else []
        _run([uv, "venv", "--quiet", "--python", sys.executable, str(directory)])
    elif needs.overrides:
        raise UnusableError(f"LiteLLM {line} can only be installed with uv: install that first")
    else:
        install = [str(python), "-m", "pip", "install", "--quiet"]
        _run([sys.executable, "-m", "venv", str(directory)])
    _run([*install, *wanted])
    complete.write_text("\n".join(wanted), encoding="utf-8")
    return python


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, stdout=sys.stderr)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UnusableError(str(error)) from error


def _versions(python: Path) -> dict[str, str | None]:
    try:
        answer = subprocess.run(
            [str(python), "-c", QUERY],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, **checkout_environment()},
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise UnusableError(f"{python} cannot be used: {error}") from error
    versions: dict[str, str | None] = json.loads(answer.stdout)
    return versions
