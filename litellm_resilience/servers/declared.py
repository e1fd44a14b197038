"""What LiteLLM's command declares, read from its source, since importing it takes seconds."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import click

COMMAND = "run_server"
NEEDED = ("apscheduler", "backoff", "fastapi", "orjson", "uvicorn", "yaml")
"""What every supported LiteLLM's proxy imports first, and LiteLLM without its extra lacks."""
TYPES = {"str": str, "int": int, "float": float, "bool": bool}
DISPENSABLE = {"callback", "default", "help", "show_default"}
"""Keywords that a declaration may have in a form that is not understood here."""


class _UnknownError(Exception):
    """The source says something in a way that this module does not know."""


def missing() -> list[str]:
    """Return the modules that LiteLLM's proxy needs and that are not installed."""
    return [name for name in ("litellm", *NEEDED) if importlib.util.find_spec(name) is None]


def source() -> Path | None:
    """Return the file that declares the command, if LiteLLM is installed as files."""
    spec = importlib.util.find_spec("litellm")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, "proxy", "proxy_cli.py")
        if path.is_file():
            return path
    return None


def read(path: Path) -> click.Command | None:
    """Return a command with the parameters of LiteLLM's, which does nothing.

    Args:
        path: of the source.

    Returns:
        None if any parameter is declared in a way that is not known here.
    """
    try:
        tree = ast.parse(path.read_bytes())
        functions = [each for each in tree.body if isinstance(each, ast.FunctionDef)]
        (function,) = [each for each in functions if each.name == COMMAND]
        first, *others = [_call(each) for each in function.decorator_list]
        if first[0] != "command":
            return None
        parameters = [_parameter(*each) for each in others]
        return click.Command(**{"name": COMMAND, **first[2]}, params=parameters)
    except (_UnknownError, OSError, SyntaxError, TypeError, ValueError):
        return None


def _parameter(kind: str, names: list[Any], settings: dict[str, Any]) -> click.Parameter:
    if kind == "option":
        return click.Option(names, **settings)
    if kind == "argument":
        return click.Argument(names, **settings)
    raise _UnknownError(kind)


def _call(node: ast.expr) -> tuple[str, list[Any], dict[str, Any]]:
    """Return the name, the arguments and the keywords of a call of something of click's."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        raise _UnknownError(ast.dump(node))
    if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "click"):
        raise _UnknownError(ast.dump(node))
    keywords: dict[str, Any] = {}
    default = ""
    for keyword in node.keywords:
        known = () if keyword.arg not in DISPENSABLE else (_UnknownError,)
        with contextlib.suppress(*known):
            keywords[keyword.arg or ""] = _value(keyword.value)
        if keyword.arg == "default" and isinstance(keyword.value, ast.Name):
            default = keyword.value.id
    if "type" not in keywords and default and _is_whole_number(default):
        keywords["type"] = int
    return node.func.attr, [_value(each) for each in node.args], keywords


def _is_whole_number(constant: str) -> bool:
    """Say whether one of LiteLLM's constants is made a whole number of, which says the type."""
    path = source()
    try:
        text = path.parents[1].joinpath("constants.py").read_text(encoding="utf-8") if path else ""
    except OSError:
        return False
    made = rf"^{constant}\b[^=\n]*= (?:int|get_env_int)\("
    return re.search(made, text, re.MULTILINE) is not None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Name) and node.id in TYPES:
        return TYPES[node.id]
    if isinstance(node, ast.Call):
        name, arguments, keywords = _call(node)
        return getattr(click, name)(*arguments, **keywords)
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise _UnknownError(ast.dump(node)) from error
