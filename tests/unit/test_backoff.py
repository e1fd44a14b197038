"""Pauses grow, are capped, and are kept per subject."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from litellm_resilience.session.backoff import Attempts, Backoff


@given(failures=st.integers(1, 10_000))
def test_pauses_never_shrink_nor_pass_the_cap(failures: int) -> None:
    backoff = Backoff(first=1.0, factor=2.0, cap=60.0)
    assert backoff.pause(failures) <= backoff.pause(failures + 1) <= 60.0


def test_pauses_double_up_to_the_cap() -> None:
    backoff = Backoff(first=1.0, factor=2.0, cap=5.0)
    assert [backoff.pause(n) for n in (1, 2, 3, 4, 5)] == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_another_subject_is_allowed_at_once() -> None:
    attempts = Attempts(Backoff(first=10.0))
    one, other = object(), object()
    attempts.failed(one, now=0.0)
    assert not attempts.allowed(one, now=9.9)
    assert attempts.allowed(one, now=10.0)
    assert attempts.allowed(other, now=0.0)


def test_success_forgets_the_failures() -> None:
    attempts = Attempts(Backoff(first=10.0))
    subject = object()
    attempts.failed(subject, now=0.0)
    attempts.succeeded()
    assert attempts.allowed(subject, now=0.0)
