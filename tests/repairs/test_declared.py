"""LiteLLM's options as its source declares them are those of its command."""

from __future__ import annotations

import click
import pytest

from litellm_resilience.servers import declared, interception


def shown(parameter: click.Parameter) -> tuple[object, ...]:
    return (
        type(parameter),
        parameter.name,
        parameter.opts,
        parameter.nargs,
        parameter.envvar,
        getattr(parameter, "is_flag", None),
        getattr(parameter, "hidden", None),
    )


def test_the_source_declares_what_the_command_has() -> None:
    path = declared.source()
    assert path is not None
    command = declared.read(path)
    assert command is not None
    native = interception.native_command()
    assert list(map(shown, command.params)) == list(map(shown, native.params))
    for ours, theirs in zip(command.params, native.params, strict=True):
        assert getattr(ours, "help", "") in {getattr(theirs, "help", ""), None}
        if isinstance(ours.default, (str, int, float)):
            assert ours.default == theirs.default
        assert repr(ours.type) == repr(theirs.type), ours.name


def test_nothing_is_missing_here() -> None:
    assert declared.missing() == []


@pytest.mark.parametrize("name", declared.NEEDED)
def test_each_module_that_must_be_there_is_one_that_the_proxy_imports(name: str) -> None:
    import sys

    import litellm.proxy.proxy_server  # noqa: F401

    assert name in sys.modules
