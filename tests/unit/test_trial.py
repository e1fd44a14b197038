"""What is made of a new worker's replies, compared with those of the others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litellm_resilience.supervisor.trial import SILENCE, Answered, Seen, Trial, fault


@st.composite
def answered(draw: st.DrawFn) -> Answered:
    replies = draw(st.integers(0, 500))
    errors = draw(st.integers(0, replies))
    refusals = draw(st.integers(0, replies - errors))
    return Answered(replies, errors, refusals, replies * draw(st.floats(0.001, 60)))


@given(answered())
def test_a_worker_like_the_others_has_no_fault(each: Answered) -> None:
    assert fault(each, each) is None


@given(answered(), answered())
def test_a_worker_without_errors_refusals_and_delay_has_no_fault(
    new: Answered, old: Answered
) -> None:
    faultless = new._replace(errors=0, refusals=0, seconds=0.0)
    assert fault(faultless, old) is None


@given(answered(), answered(), st.data())
def test_errors_in_place_of_good_replies_are_never_better(
    new: Answered, old: Answered, data: st.DataObject
) -> None:
    more = data.draw(st.integers(0, new.replies - new.errors - new.refusals))
    if fault(new, old) is not None:
        assert fault(new._replace(errors=new.errors + more), old) is not None


@given(st.integers(3, 500), st.integers(0, 500))
def test_a_worker_that_answers_errors_only_is_found_by_its_third_reply(
    errors: int, replies: int
) -> None:
    for kind in ("errors", "refusals"):
        new = Answered(errors)._replace(**{kind: errors})
        assert fault(new, Answered(replies)) is not None
        assert fault(Answered(2)._replace(**{kind: 2}), Answered(replies)) is None


@pytest.mark.parametrize(
    ("new", "old", "silent_for", "message"),
    [
        (Answered(10, 9), Answered(200, 2), 0, "9 of 10 replies are errors, 2 of 200 elsewhere"),
        (Answered(10, 0, 9), Answered(9), 0, "9 of 10 replies are refusals, 0 of 9 elsewhere"),
        (Answered(20, seconds=100), Answered(20, seconds=20), 0, "a reply takes 5.0 s, 1.0 s"),
        (Answered(), Answered(20, seconds=2), 11, "answered nothing for 11 s, others 20 requests"),
        (Answered(10, 9), Answered(10, 5), 0, None),
        (Answered(20, 2), Answered(20), 0, None),
        (Answered(19, seconds=100), Answered(20, seconds=20), 0, None),
        (Answered(20, seconds=19), Answered(20, seconds=0.2), 0, None),
        (Answered(), Answered(20, seconds=200), 11, None),
        (Answered(), Answered(19), 60, None),
    ],
)
def test_what_is_a_fault(
    new: Answered, old: Answered, silent_for: float, message: str | None
) -> None:
    found = fault(new, old, silent_for)
    assert found is None if message is None else message in str(found)


def test_only_what_was_answered_during_the_trial_counts() -> None:
    trial = Trial(30.0, first=3)
    assert trial.look(0.0, [Seen(1, Answered(900, 900))]) is None
    assert not trial.is_over(1000.0)
    assert trial.look(1000.0, [Seen(1, Answered(900, 900)), Seen(3, Answered(5))]) is None
    told = trial.look(1001.0, [Seen(1, Answered(910, 900)), Seen(3, Answered(9, 3))])
    assert told == "3 of 4 replies are errors, 0 of 10 elsewhere"
    assert not trial.is_over(1029.9)
    assert trial.is_over(1030.0)


def test_silence_is_counted_from_the_first_request() -> None:
    trial = Trial(300.0, first=2)
    busy = Seen(1, Answered(100))
    assert trial.look(0.0, [Seen(1, Answered()), Seen(2, Answered())]) is None
    assert trial.look(100.0, [busy, Seen(2, Answered(), in_flight=3)]) is None
    assert trial.look(100.0 + SILENCE, [busy, Seen(2, Answered(), in_flight=3)]) is None
    assert trial.look(100.1 + SILENCE, [busy, Seen(2, Answered(), in_flight=3)]) is not None
    assert trial.look(100.2 + SILENCE, [busy, Seen(2, Answered(1), in_flight=2)]) is None
