"""Tables and indexes that LiteLLM's schema.prisma names and its migrations did not make."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

Columns = Mapping[str, set[str]]
"""Names of the columns of each table that is there."""

_TYPES = {
    "String": "TEXT",
    "Int": "INTEGER",
    "BigInt": "BIGINT",
    "Float": "DOUBLE PRECISION",
    "Boolean": "BOOLEAN",
    "DateTime": "TIMESTAMP(3)",
    "Json": "JSONB",
    "Bytes": "BYTEA",
}
_BLOCK = r"^{kind}\s+(\w+)\s*\{{(.*?)^\}}"
_FIELD = re.compile(r"\s*(\w+)\s+(\w+)(\[\])?(\?)?(.*)")


def completed(schema: str, present: Columns) -> Iterator[str]:
    """Statements of SQL that add what is missing, but for relations.

    Args:
        schema: text of schema.prisma.
        present: what the database has.
    """
    enumerations = dict(_blocks(schema, "enum"))
    models = dict(_blocks(schema, "model"))
    for name, body in enumerations.items():
        if not any(f" {name} " in text for text in models.values()):
            continue
        values = ", ".join(f"'{line.split()[0]}'" for line in _lines(body))
        yield f'CREATE TYPE "{name}" AS ENUM ({values})'
    types = {**_TYPES, **{name: f'"{name}"' for name in enumerations}}
    for name, body in models.items():
        table = _mapped(body, "@@map") or name
        columns = dict(_columns(body, types))
        if table not in present:
            keys = _keys(body)
            yield f'CREATE TABLE "{table}" ({", ".join([*columns.values(), *keys])})'
        for column, definition in columns.items():
            if column not in present.get(table, columns):
                yield f'ALTER TABLE "{table}" ADD COLUMN {definition.replace(" NOT NULL", "")}'
        for names in re.findall(r"^\s*@@index\(\[([\w, ]+)\]\)", body, re.MULTILINE):
            fields = re.findall(r"\w+", names)
            quoted = ", ".join(f'"{each}"' for each in fields)
            index = "_".join([table, *fields, "idx"])
            yield f'CREATE INDEX IF NOT EXISTS "{index}" ON "{table}" ({quoted})'


def _blocks(schema: str, kind: str) -> Iterator[tuple[str, str]]:
    for found in re.finditer(_BLOCK.format(kind=kind), schema, re.MULTILINE | re.DOTALL):
        yield found[1], found[2]


def _lines(body: str) -> Iterator[str]:
    for line in body.splitlines():
        if (text := line.strip()) and not text.startswith(("//", "@@")):
            yield text


def _columns(body: str, types: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for line in _lines(body):
        field = _FIELD.match(line)
        if field is None or field[2] not in types:
            continue
        column = _mapped(line, "@map") or field[1]
        optional = field[3] or field[4]
        yield (
            column,
            f'"{column}" {types[field[2]]}{field[3] or ""}{"" if optional else " NOT NULL"}',
        )


def _keys(body: str) -> Iterator[str]:
    for line in _lines(body):
        name = _mapped(line, "@map") or line.split()[0]
        if " @id" in line:
            yield f'PRIMARY KEY ("{name}")'
        if " @unique" in line:
            yield f'UNIQUE ("{name}")'
    for kind, names in re.findall(r"^\s*@@(id|unique)\(\[([^\]]+)\]", body, re.MULTILINE):
        quoted = ", ".join(f'"{each.strip()}"' for each in names.split(","))
        yield f"{'PRIMARY KEY' if kind == 'id' else 'UNIQUE'} ({quoted})"


def _mapped(text: str, attribute: str) -> str:
    found = re.search(rf'(?<!@){attribute}\("([^"]+)"\)', text)
    return found[1] if found else ""
