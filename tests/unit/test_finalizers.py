"""Finalisers that set context variables while a context variable is being set."""

from __future__ import annotations

import contextvars
import subprocess
import sys
import threading
import weakref

import pytest

from litellm_resilience.repairs import finalizers
from litellm_resilience.repairs.finalizers import hold_context

COLLECT = """
import gc
from tests.support.sabotage import collect_garbage
from litellm_resilience.repairs.finalizers import hold_context
{setup}
collect_garbage(200)
print("survived")
"""

variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable")


class Value:
    pass


def collect_garbage(setup: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COLLECT.format(setup=setup)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="collects between instructions")
def test_without_the_patch_the_process_does_not_survive() -> None:
    """Memory is overwritten: SIGSEGV as a rule, else an error, and nobody can promise either."""
    assert any(collect_garbage().returncode != 0 for _ in range(3))


def test_with_it_the_process_lives() -> None:
    result = collect_garbage("gc.callbacks.append(hold_context)")
    assert (result.returncode, result.stdout) == (0, "survived\n"), result.stderr


def hold() -> weakref.ref[Value]:
    """Have a collection start where a value is in the context and nowhere else."""
    value = Value()
    found = weakref.ref(value)

    def collect() -> None:
        variable.set(value)
        hold_context("start", {})

    contextvars.copy_context().run(collect)
    return found


def test_a_value_is_kept_until_the_thread_has_moved_on() -> None:
    found = hold()
    assert found() is not None
    hold_context("stop", {})
    assert found() is not None
    hold_context("start", {})
    assert found() is None


def test_what_is_kept_at_one_place_is_bounded() -> None:
    for _ in range(1000):
        hold_context("start", {})
    assert len(finalizers._held.contexts) == finalizers.MOST_COLLECTIONS_IN_A_CALL


def test_threads_do_not_drop_what_another_keeps() -> None:
    found = hold()
    other = threading.Thread(target=hold_context, args=("start", {}))
    other.start()
    other.join()
    assert found() is not None
