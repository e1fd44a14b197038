"""The database of the proxy, as LiteLLM's command finds it, and how many connections it allows."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote_plus, urlencode, urlsplit, urlunsplit

POOL_LIMIT = 10
"""Of an engine, unless the config sets another (litellm/proxy/proxy_cli.py)."""
ASKING_SECONDS = 5
ALLOWED = """
SELECT current_setting('max_connections')::int
     - current_setting('superuser_reserved_connections')::int,
       (SELECT datconnlimit FROM pg_database WHERE datname = current_database()),
       (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user)
"""
UNLIMITED = -1


@dataclass(frozen=True)
class Database:
    """A database that workers connect to.

    Attributes:
        url: where it is, credentials included.
        pool_limit: connections that the engine of one worker may open.
    """

    url: str = field(repr=False)
    pool_limit: int = POOL_LIMIT


class AskingError(Exception):
    """The database could not be asked; says why, without its address or credentials."""


def configured(config: str | None) -> Database | None:
    """Return the database that LiteLLM's command would use, if there is one and its pool is known.

    Args:
        config: LiteLLM's config file. One that cannot be read says nothing.
    """
    settings = section(config, "general_settings")
    url = _resolved(settings.get("database_url")) or os.environ.get("DATABASE_URL") or _composed()
    extra = settings.get("database_extra_connection_params") or {}
    limit = extra.get(
        "connection_limit", settings.get("database_connection_pool_limit", POOL_LIMIT)
    )
    return Database(url, limit) if url and isinstance(limit, int) and limit > 0 else None


def allowed_connections(database: Database) -> int:
    """Ask how many connections the database allows this user.

    Args:
        database: a PostgreSQL.

    Raises:
        AskingError: there is no client for it here, or it did not answer.
    """
    try:
        psycopg = importlib.import_module("psycopg")
    except ImportError as error:
        raise AskingError("psycopg is not installed") from error
    try:
        with psycopg.connect(_for_libpq(database.url), connect_timeout=ASKING_SECONDS) as link:
            limits: tuple[int, ...] = link.execute(ALLOWED).fetchone()
    except Exception as error:  # its text may quote the address
        raise AskingError(f"it did not answer ({type(error).__name__})") from error
    return min(limit for limit in limits if limit != UNLIMITED)


def _for_libpq(url: str) -> str:
    """Leave out the parameters that only Prisma knows, which libpq refuses."""
    parts = urlsplit(url)
    known = [(name, value) for name, value in parse_qsl(parts.query) if name.startswith("ssl")]
    return urlunsplit(parts._replace(query=urlencode(known)))


def section(config: str | None, name: str) -> dict[str, Any]:
    """Return a section of LiteLLM's config file; empty if it cannot be read or is no section.

    Args:
        config: the file's path, if there is one.
        name: of the section.
    """
    if config is None:
        return {}
    try:
        yaml: Any = importlib.import_module("yaml")
        document = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
        settings = document[name]
    except Exception:  # LiteLLM says what is wrong with it
        return {}
    return settings if isinstance(settings, dict) else {}


def _resolved(url: object) -> str | None:
    if not isinstance(url, str):
        return None
    prefix, found, name = url.partition("os.environ/")
    return os.environ.get(name) if found and not prefix else url


def _composed() -> str | None:
    host, user, password, name = (
        os.environ.get(f"DATABASE_{part}", "") for part in ("HOST", "USERNAME", "PASSWORD", "NAME")
    )
    if not (host and user and name):
        return None
    secret = f":{quote_plus(password)}" if password else ""
    return f"postgresql://{quote_plus(user)}{secret}@{host}/{quote_plus(name)}"
