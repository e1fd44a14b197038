"""The query engine that LiteLLM's database client starts, and the client itself."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "production" / "query_engine"
INSTALL_SECONDS = 240
FILES = ("engine.js", "translate.js", "query-engine", "prisma")


class MissingError(Exception):
    """Something that cannot be started here; the message says what."""


def packages() -> Path:
    """Return the folder of npm's packages, installed once for all sessions of this user.

    Raises:
        MissingError: there is no npm, or it cannot install them.
    """
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            raise MissingError(f"no {tool}")
    manifest = (SOURCE / "package.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = f"query-engine-{hashlib.sha256(manifest).hexdigest()[:12]}"
    folder = cache / "litellm-resilience-tests" / name
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock"):
        if not (folder / "installed").exists():
            (folder / "package.json").write_bytes(manifest)
            _run(
                "npm install",
                ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=folder,
            )
            (folder / "installed").touch()
    return folder / "node_modules"


def install(folder: Path) -> Path:
    """Put the engine and the ``prisma`` command into a folder; return it.

    Raises:
        MissingError: see `packages`.
    """
    modules = packages()
    for name in FILES:
        shutil.copy(SOURCE / name, folder / name)
    (folder / "node_modules").symlink_to(modules)
    return folder


def package(name: str) -> Path:
    """Return the folder of an installed package.

    Raises:
        MissingError: it is not installed.
    """
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise MissingError(f"{name} is not installed")
    return Path(found.origin).parent


def environment(folder: Path) -> dict[str, str]:
    """Return what a proxy needs to find the engine in a folder."""
    before_0_15 = tuple(map(int, version("prisma").split(".")[:2])) < (0, 15)
    return {
        "PRISMA_QUERY_ENGINE_BINARY": str(folder / "query-engine"),
        "PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "QE_OLD_RAW": str(int(before_0_15)),
    }


def generate(folder: Path, schema: Path) -> None:
    """Generate the client into this interpreter's packages, unless it is there.

    Args:
        folder: see `install`.
        schema: LiteLLM's schema.prisma.

    Raises:
        MissingError: there is no prisma to generate it from, or that fails.
    """
    found = importlib.util.find_spec("prisma")
    if found is None or found.origin is None:
        raise MissingError("prisma is not installed")
    client = Path(found.origin).parent
    engine = str(folder / "query-engine")
    with _locked(client / "generate.lock"):
        if _same(client / "schema.prisma", schema):
            return
        _run(
            "prisma generate",
            [
                "node",
                str(folder / "node_modules/prisma/build/index.js"),
                "generate",
                "--schema",
                str(schema),
            ],
            env={
                **os.environ,
                **environment(folder),
                "PRISMA_SCHEMA_ENGINE_BINARY": engine,
                "PRISMA_QUERY_ENGINE_LIBRARY": engine,
                "PRISMA_ENGINES_CHECKSUM_IGNORE_MISSING": "1",
                "PRISMA_PY_DEBUG_GENERATOR": "1",
            },
        )


def running(mark: str) -> list[int]:
    """Return the process ids of query engines that were started for one proxy.

    Args:
        mark: a value of their environment that no other process has.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            values = (entry / "environ").read_bytes()
        except OSError:
            continue
        if b"query-engine" in command and mark.encode() in values:
            found.append(int(entry.name))
    return sorted(found)


def _same(one: Path, other: Path) -> bool:
    """Compare schemas; the generator formats its copy."""
    return one.exists() and one.read_text().split() == other.read_text().split()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(
    what: str, command: list[str], cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=env,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MissingError(f"{what} takes longer than {INSTALL_SECONDS} s") from error
    if done.returncode:
        raise MissingError(f"{what} failed: {(done.stdout + done.stderr)[-1000:]}")
