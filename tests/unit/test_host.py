"""What the supervisor is told of LiteLLM, by a process in which a stand-in is served instead."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from litellm_resilience.servers import warmup
from litellm_resilience.servers.application import TARGET_VARIABLE
from litellm_resilience.servers.host import REAPER_THREAD
from litellm_resilience.servers.supervised import Supervision
from litellm_resilience.supervisor.limits import Recycling

Preload = Callable[..., str]

WAITING_THREAD = """
import threading

def start(name):
    threading.Thread(target=threading.Event().wait, name=name, daemon=True).start()
"""
APPLICATION = """
import os
from types import SimpleNamespace
from waiting_thread import start

DEBUG, JSON = os.environ.get("OTHER"), os.environ.get("JSON_LOGS")
{on_import}

def matches(scope):
    {on_request}
    return None, scope

app = SimpleNamespace(router=SimpleNamespace(routes=[SimpleNamespace(matches=matches)]))
"""
PROGRAM = """
import os, sys
sys.modules["litellm"] = sys.modules["openai"] = None  # as if they were not installed
{before}
from litellm_resilience.servers import application, host
from litellm_resilience.supervisor import preload
from litellm_resilience.supervisor.environment import ImportReads
preload.THREAD_END_TIMEOUT = preload.THREAD_RETURN_TIMEOUT = 0.1
application.install = lambda: None
host.inheritance.prepare = host.LiteLLMHost.log = lambda _: None
with ImportReads() as reads:
    import served
{after}
print(host.LiteLLMHost(reads).preload(2))
"""


@pytest.fixture
def preload(tmp_path: Path) -> Preload:
    """Preload a stand-in in a new process; return what stands in the way of forking there."""

    def run(
        on_import: str = "", on_request: str = "pass", before: str = "", after: str = ""
    ) -> str:
        (tmp_path / "waiting_thread.py").write_text(WAITING_THREAD)
        served = APPLICATION.format(on_import=on_import, on_request=on_request)
        (tmp_path / "served.py").write_text(served)
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(before=before, after=after)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={
                **{name: value for name, value in os.environ.items() if name != "JSON_LOGS"},
                "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
                TARGET_VARIABLE: "served:app",
            },
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    return run


def test_nothing_stands_in_the_way_of_an_application_that_only_waits(preload: Preload) -> None:
    """Not one of the modules that the warm-up names is there."""
    assert preload() == "None"


def test_a_thread_of_the_application_is_named(preload: Preload) -> None:
    assert preload(on_import="start('ticker')") == "a forked worker would miss the threads ticker"


def test_a_thread_that_the_warm_up_starts_is_named(preload: Preload) -> None:
    pytest.importorskip("starlette")
    reason = "after the warm-up a forked worker would miss the threads ticker"
    assert preload(on_request="start('ticker')") == reason


def test_a_thread_that_is_known_to_hold_no_lock_is_no_obstacle(preload: Preload) -> None:
    assert preload(on_import=f"start({REAPER_THREAD!r})") == "None"


def test_a_variable_that_was_set_too_late_is_named(preload: Preload) -> None:
    """But not one that the command applies to its own process as well."""
    late = "os.environ['JSON_LOGS'] = 'True'"
    assert preload(after=late) == "None"
    late += "; os.environ['OTHER'] = 'x'"
    assert preload(after=late) == "set after modules had read them: OTHER"


def test_an_extension_that_cannot_be_kept_from_starting_threads_is_named(preload: Preload) -> None:
    guard = """
import types
def refuse(name):
    raise RuntimeError("threads were started")
sys.modules["litellm.rust_bridge.fork_guard"] = types.SimpleNamespace(
    reserve_process_for_forking=refuse
)
for name in ("litellm", "litellm.rust_bridge"):
    sys.modules[name] = types.ModuleType(name)
"""
    assert preload(before=guard) == "RuntimeError: threads were started"


@pytest.fixture
def warm_up(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Warm up without what the real LiteLLM would load."""
    for name, nothing in (("MODULES", ()), ("MODELS", {}), ("CALLS", {})):
        monkeypatch.setattr(warmup, name, nothing)
    return warmup.warm_up


def test_what_fails_does_not_stop_the_warm_up(
    warm_up: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an application without a router nor a module that is missing or broken."""
    (tmp_path / "warmed_up.py").touch()
    (tmp_path / "shared_by_several.py").touch()
    (tmp_path / "broken_module.py").write_text("raise RuntimeError('of another version')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(warmup, "MODULES", ("no_such_module", "broken_module", "warmed_up"))
    monkeypatch.setattr(warmup, "LARGE_MODULES", ("shared_by_several",))
    warm_up(object(), 1)
    assert "warmed_up" in sys.modules
    assert "shared_by_several" not in sys.modules
    warm_up(object(), 2)
    assert "shared_by_several" in sys.modules


def test_models_are_built_and_functions_are_called_that_are_there(
    warm_up: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    class Model:
        @classmethod
        def model_rebuild(cls, *, raise_errors: bool) -> None:
            assert not raise_errors
            done.append("built")

    class Broken:
        @classmethod
        def model_rebuild(cls, *, raise_errors: bool) -> None:
            raise TypeError("of another version")

    found = SimpleNamespace(Broken=Broken, Model=Model, find=lambda: done.append("called"))
    monkeypatch.setitem(sys.modules, "found_models", cast("Any", found))
    monkeypatch.setattr(warmup, "MODELS", {"no_such": "A", "found_models": "Broken Missing Model"})
    monkeypatch.setattr(warmup, "CALLS", {"no_such": "a", "found_models": "find"})
    warm_up(object(), 1)
    assert done == ["built", "called"]


def test_routes_are_asked_until_one_matches(warm_up: Callable[..., None]) -> None:
    base: Any = pytest.importorskip("starlette.routing").Route
    asked: list[str] = []

    class Route(base):  # type: ignore[misc]
        def matches(self, scope: dict[str, object]) -> object:
            asked.append(self.path)
            return super().matches(scope)

    paths = ("/health", "/v1/chat/completions", "/{anything:path}")
    routes = [Route(path, lambda _: None, methods=["POST"]) for path in paths]
    warm_up(SimpleNamespace(router=SimpleNamespace(routes=routes)), 1)
    assert asked == ["/health", "/v1/chat/completions"]


@pytest.mark.parametrize(
    ("arguments", "recycling", "wanted"),
    [
        ({"workers": 1}, Recycling(), False),
        ({"workers": None}, Recycling(), False),
        ({"workers": 2}, Recycling(), True),
        ({"workers": 1, "limit_max_requests": 10}, Recycling(), True),
        ({"workers": 1}, Recycling(memory_mb=500), True),
        ({"workers": 1}, Recycling(lifetime=60), True),
        ({"workers": 2, "reload": True}, Recycling(), False),
        ({"workers": 1, "limit_max_requests": 10, "reload": True}, Recycling(), False),
    ],
)
def test_what_is_supervised(
    arguments: dict[str, int | None], recycling: Recycling, wanted: bool
) -> None:
    assert Supervision(recycling=recycling).wanted(arguments) is wanted


def test_modules_that_the_operator_names_are_loaded_before_the_fork(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that cannot be imported is said, and stops neither the others nor the command."""
    (tmp_path / "broken_callback_library.py").write_text("raise RuntimeError('no licence')")
    (tmp_path / "callback_library.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    problems = warmup.load_modules(["broken_callback_library", "callback_library"])
    assert problems == ["--preload_modules: broken_callback_library: RuntimeError: no licence"]
    assert "callback_library" in sys.modules
