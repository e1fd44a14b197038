"""Installing, taking back, leaving out and skipping patches."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from types import ModuleType, SimpleNamespace
from typing import Any

import aiohttp
import pytest
from pytest_mock import MockerFixture

import litellm_resilience
from litellm_resilience.repairs import finalizers, registry
from litellm_resilience.repairs.base import Changes, PatchState


def attributes(modules: SimpleNamespace) -> dict[str, Any]:
    """Return everything that a patch could have replaced, by where it stands."""
    from starlette.applications import Starlette
    from starlette.responses import StreamingResponse

    owners = {
        "route": modules.route,
        "server": modules.server,
        "router": modules.server.app.router,
        "transport": modules.transport.AiohttpTransport,
        "litellm transport": modules.transport.LiteLLMAiohttpTransport,
        "stream": modules.transport.AiohttpResponseStream,
        "application": Starlette,
        "streaming": StreamingResponse,
    }
    return {
        f"{where}.{name}": value
        for where, owner in owners.items()
        for name, value in vars(owner).items()
        if callable(value)
    }


def test_every_patch_fits_this_litellm(patched: SimpleNamespace) -> None:
    report = litellm_resilience.install()
    assert list(report) == [patch.name for patch in registry.PATCHES]
    assert {
        name: outcome for name, outcome in report.items() if outcome.state not in registry.SATISFIED
    } == {}


def test_session_patches_report_what_this_litellm_needs(patched: SimpleNamespace) -> None:
    report = litellm_resilience.install()
    has_session = hasattr(patched.route, "add_shared_session_to_data")
    expected = PatchState.APPLIED if has_session else PatchState.NOT_NEEDED
    for name in ("session-ownership", "cached-clients", "session-lifecycle", "shared-session"):
        assert report[name].state is expected


def test_uninstall_puts_everything_back(litellm_modules: SimpleNamespace) -> None:
    litellm_resilience.uninstall()
    before = attributes(litellm_modules)
    litellm_resilience.install()
    assert attributes(litellm_modules) != before
    litellm_resilience.uninstall()
    assert attributes(litellm_modules) == before


def test_the_collector_is_watched_where_it_runs_inside_calls(
    litellm_modules: SimpleNamespace,
) -> None:
    litellm_resilience.uninstall()
    before = list(gc.callbacks)
    litellm_resilience.install()
    hooks = [] if sys.version_info >= (3, 12) else [finalizers.hold_context]
    assert gc.callbacks == [*before, *hooks]
    litellm_resilience.uninstall()
    assert gc.callbacks == before


def test_install_and_uninstall_are_idempotent(litellm_modules: SimpleNamespace) -> None:
    litellm_resilience.uninstall()
    before = attributes(litellm_modules)
    assert litellm_resilience.install() == litellm_resilience.install()
    litellm_resilience.uninstall()
    litellm_resilience.uninstall()
    assert attributes(litellm_modules) == before


async def test_a_session_in_care_is_an_ordinary_one_after_uninstall(
    session: aiohttp.ClientSession,
) -> None:
    assert "close" in vars(session)
    litellm_resilience.uninstall()
    assert "close" not in vars(session)


def test_from_imported_copies_are_replaced_too(shared: SimpleNamespace) -> None:
    import litellm.proxy.common_request_processing as processing

    assert processing.route_request is shared.route.route_request


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="collections do not run inside calls")
def test_copies_are_replaced_although_a_collection_imports_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner = ModuleType("litellm_made_up")
    owner.function = original = object()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, owner.__name__, owner)
    imported: list[str] = []

    def import_more(phase: str, _: object) -> None:
        if phase == "stop":
            imported.append(f"litellm_made_up_{len(imported)}")
            sys.modules[imported[-1]] = ModuleType(imported[-1])

    changes = Changes()
    thresholds = gc.get_threshold()
    gc.callbacks.append(import_more)
    gc.set_threshold(1)
    try:
        changes.replace_everywhere(owner, "function", None)
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(import_more)
        for name in imported:
            del sys.modules[name]
    assert imported
    assert owner.function is None
    changes.undo()
    assert owner.function is original


def test_a_disabled_patch_is_left_out(
    litellm_modules: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    litellm_resilience.uninstall()
    monkeypatch.setenv(registry.DISABLE_VARIABLE, "stream-release, cached-clients")
    native = litellm_modules.transport.AiohttpResponseStream.__aiter__
    report = litellm_resilience.install()
    try:
        assert report["stream-release"].state is PatchState.DISABLED
        assert report["cached-clients"].state is PatchState.DISABLED
        assert litellm_modules.transport.AiohttpResponseStream.__aiter__ is native
    finally:
        litellm_resilience.uninstall()


def test_recreation_is_not_applied_without_the_ownership_guard(
    litellm_modules: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    litellm_resilience.uninstall()
    monkeypatch.setenv(registry.DISABLE_VARIABLE, "session-ownership")
    report = litellm_resilience.install()
    litellm_resilience.uninstall()
    assert report["shared-session"].state is PatchState.DISABLED
    assert "session-ownership" in report["shared-session"].reason


def test_an_unfamiliar_litellm_is_left_alone_with_one_warning(
    litellm_modules: SimpleNamespace,
    mocker: MockerFixture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A patch that does not fit is rolled back whole; the others still apply."""
    litellm_resilience.uninstall()
    stream = litellm_modules.transport.AiohttpResponseStream

    async def unfamiliar(self: Any) -> AsyncIterator[bytes]:
        await asyncio.sleep(0)
        yield b""

    mocker.patch.object(stream, "__aiter__", new=unfamiliar)
    mocker.patch("litellm._logging.verbose_proxy_logger", logging.getLogger("unfamiliar"))
    with caplog.at_level(logging.WARNING, logger="unfamiliar"):
        report = litellm_resilience.install()
    try:
        assert report["stream-release"].state is PatchState.INCOMPATIBLE
        assert stream.__aiter__ is unfamiliar
        warnings = [record.getMessage() for record in caplog.records]
        assert len([text for text in warnings if "stream-release skipped" in text]) == 1
        assert report["client-disconnect"].state in registry.SATISFIED
    finally:
        litellm_resilience.uninstall()
        mocker.stopall()


def test_a_later_replacement_by_somebody_else_is_not_undone(
    patched: SimpleNamespace, mocker: MockerFixture
) -> None:
    transport = patched.transport.LiteLLMAiohttpTransport
    if "not needed" in litellm_resilience.install()["cached-clients"].state.value:
        pytest.skip("this LiteLLM has no shared session")
    native_after_uninstall = inspect.unwrap(transport.handle_async_request)
    other = mocker.sentinel.other
    transport.handle_async_request = other
    litellm_resilience.uninstall()
    assert transport.handle_async_request is other
    transport.handle_async_request = native_after_uninstall


def test_importing_the_package_imports_and_patches_nothing() -> None:
    script = (
        "import sys, litellm_resilience, litellm_resilience.command.entry, uvicorn\n"
        "assert 'litellm' not in sys.modules\n"
        "assert uvicorn.run.__module__ == 'uvicorn.main'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
