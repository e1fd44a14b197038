"""A real PostgreSQL of this test session, with LiteLLM's tables."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from litellm_resilience.demo.lifetime import Started
from litellm_resilience.demo.proxy import free_port
from tests.support import schema

START_SECONDS = 30.0
USER = "litellm"
TEMPLATE = "litellm_tables"


def programs() -> Path | None:
    """Return the folder with initdb and postgres, of the newest version; None without."""
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(found, key=lambda path: int(path.parts[-3]), default=None)
    on_path = shutil.which("initdb")
    return newest.parent if newest else Path(on_path).parent if on_path else None


class Postgres(Started):
    """PostgreSQL on 127.0.0.1, which forgets all when stopped; a context manager.

    Args:
        programs: see `programs`.

    Attributes:
        port: its TCP port.
    """

    host = "127.0.0.1"

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._directory = Path(tempfile.mkdtemp(prefix="production-postgres-"))
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    def start(self) -> Postgres:
        """Start it and wait until it answers.

        Raises:
            RuntimeError: it does not answer in time.
        """
        data = self._directory / "data"
        if os.geteuid() == 0:
            shutil.chown(self._directory, "postgres", "postgres")
        self._run("initdb", "--auth=trust", f"--username={USER}", "--no-sync", f"--pgdata={data}")
        address = ("-p", str(self.port), "-c", f"listen_addresses={self.host}")
        options = ("-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "max_connections=400")
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("postgres", "-D", str(data), *address, *options),
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS
        while self._ask("postgres", "select 1").returncode:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError((self._directory / "log").read_text())
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        """End it at once and remove its files."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(10)
        shutil.rmtree(self._directory, ignore_errors=True)

    def prepare(self, migrations: Path, wanted: Path) -> None:
        """Make LiteLLM's tables once; `database` copies them.

        Args:
            migrations: folder of LiteLLM's migrations.
            wanted: its schema.prisma; what the migrations leave out is added.
        """
        self.query(f"create database {TEMPLATE}")
        files = [f"--file={path}" for path in sorted(migrations.glob("*/migration.sql"))]
        # Some of them repeat each other, so errors are usual.
        self._ask(TEMPLATE, *files)
        present: dict[str, set[str]] = {}
        for line in self.query(
            "select table_name, column_name from information_schema.columns"
            " where table_schema = 'public'",
            TEMPLATE,
        ):
            table, column = line.split("|")
            present.setdefault(table, set()).add(column)
        self._ask(
            TEMPLATE,
            *(f"--command={each}" for each in schema.completed(wanted.read_text(), present)),
        )

    def database(self) -> Database:
        """Return a new database with LiteLLM's tables."""
        name = f"proxy{next(self._numbers)}"
        self.query(f"create database {name} template {TEMPLATE}")
        return Database(self, name)

    def query(self, statement: str, database: str = "postgres") -> list[str]:
        """Return the rows of the answer, columns separated by ``|``.

        Raises:
            RuntimeError: the server refuses the statement.
        """
        answer = self._ask(database, f"--command={statement}")
        if answer.returncode:
            raise RuntimeError(answer.stderr)
        return answer.stdout.splitlines()

    def _ask(self, database: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        if not arguments[0].startswith("--"):
            arguments = (f"--command={arguments[0]}",)
        address = (f"--host={self.host}", f"--port={self.port}", f"--username={USER}")
        style = ("--no-psqlrc", "--quiet", "--no-align", "--tuples-only")
        return subprocess.run(
            [self._programs / "psql", *address, *style, f"--dbname={database}", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            self._command(*command), capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)

    def _command(self, program: str, *arguments: str) -> list[str]:
        """PostgreSQL refuses to run as root; it ends with this process."""
        identity = ("--reuid=postgres", "--regid=postgres", "--init-groups")
        return [
            *("setpriv", "--pdeathsig=QUIT", *(identity if os.geteuid() == 0 else ())),
            *(str(self._programs / program), *arguments),
        ]


class Database:
    """A database of one proxy.

    Args:
        server: where it is.
        name: its name.
    """

    def __init__(self, server: Postgres, name: str) -> None:
        self._server = server
        self.name = name

    @property
    def url(self) -> str:
        """What LiteLLM calls DATABASE_URL."""
        return f"postgresql://{USER}@{self._server.host}:{self._server.port}/{self.name}"

    @property
    def parts(self) -> dict[str, str]:
        """The variables of which LiteLLM composes DATABASE_URL."""
        return {
            "DATABASE_HOST": f"{self._server.host}:{self._server.port}",
            "DATABASE_USERNAME": USER,
            "DATABASE_PASSWORD": "any",
            "DATABASE_NAME": self.name,
        }

    def query(self, statement: str) -> list[str]:
        """Return the rows of the answer, see `Postgres.query`."""
        return self._server.query(statement, self.name)

    def connections(self) -> list[str]:
        """Return who is connected: the engines, by the names they give themselves."""
        return self._server.query(
            "select application_name from pg_stat_activity"
            f" where datname = '{self.name}' and pid <> pg_backend_pid()"
        )
