"""The closed form, the simulation that it is checked against, and the search that uses it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from litellm_resilience.plan import deploy, outlook
from litellm_resilience.plan.closed_form import both_down_chance
from litellm_resilience.plan.scenario import Scenario
from litellm_resilience.plan.search import smallest_jitter
from litellm_resilience.plan.statistics import Estimate

workers = st.integers(2, 8)
rates = st.floats(0.1, 100)
boots = st.floats(0.1, 60)


def scenario(**changes: float) -> Scenario:
    fields = {"workers": 2, "limit": 1000, "jitter": 400, "rate": 10.0, "boot_seconds": 10.0}
    return Scenario(**{**fields, **changes})  # type: ignore[arg-type]


@given(jitter=st.integers(0, 40), requests=st.floats(0.1, 60))
def test_two_workers_by_counting_all_pairs(jitter: int, requests: float) -> None:
    draws = range(jitter + 1)
    met = sum(abs(one - other) < requests for one, other in product(draws, draws))
    assert both_down_chance(2, jitter, requests, 1.0) == pytest.approx(met / len(draws) ** 2)


@given(jitter=st.integers(0, 12), requests=st.floats(0.1, 12))
def test_three_workers_by_counting_all_triples(jitter: int, requests: float) -> None:
    draws = range(jitter + 1)
    met = 0
    for triple in product(draws, repeat=3):
        low, middle, high = sorted(triple)
        met += min(middle - low, high - middle) < requests / 2
    assert both_down_chance(3, jitter, requests, 1.0) == pytest.approx(met / len(draws) ** 3)


@pytest.mark.parametrize(
    ("known", "chance"),
    [
        ({"jitter": 0}, 1.0),
        ({"jitter": 99}, 1.0),
        ({"jitter": 100}, 1 - 2 / 101**2),
        ({"workers": 1}, 0.0),
        ({"jitter": 10**9}, 0.0),
    ],
)
def test_the_ends(known: dict[str, float], chance: float) -> None:
    """The boot takes as long as 100 requests: with draws less than that apart it is certain."""
    assert deploy.most(scenario(**{"limit": 10**9, **known})) == pytest.approx(chance, abs=1e-6)


@given(
    workers=workers, jitter=st.integers(0, 2000), more=st.integers(0, 500), rate=rates, boot=boots
)
def test_more_jitter_never_raises_the_chance(
    workers: int, jitter: int, more: int, rate: float, boot: float
) -> None:
    less = both_down_chance(workers, jitter + more, rate, boot)
    assert 0 <= less <= both_down_chance(workers, jitter, rate, boot) + 1e-12


@pytest.mark.parametrize(
    "known",
    [
        {},
        {"jitter": 100},
        {"jitter": 1000, "rate": 3.0},
        {"workers": 3, "jitter": 1000},
        {"workers": 4, "jitter": 1000, "boot_seconds": 7.3},
        {"workers": 8, "jitter": 900, "rate": 7.0, "boot_seconds": 5.0},
    ],
)
def test_the_simulated_first_round_is_that_of_the_closed_form(known: dict[str, float]) -> None:
    asked = replace(scenario(**known), even_split=True)
    simulated = deploy.chance(asked, seed=1)
    # Twice the half width of its 95 % interval: nearly four standard deviations.
    assert abs(simulated.value - deploy.most(asked)) <= simulated.high - simulated.low


@pytest.mark.parametrize("jitter", [0, 20, 200, 1000])
def test_a_random_split_never_raises_the_chance(jitter: int) -> None:
    asked = scenario(jitter=jitter, boot_seconds=3.0)
    assert deploy.chance(asked, seed=1).low <= deploy.most(asked)


def test_a_random_split_hardly_matters_beside_a_large_jitter() -> None:
    asked = scenario(limit=10_000, jitter=5000, boot_seconds=60.0)
    assert deploy.chance(asked, seed=1).value == pytest.approx(deploy.most(asked), abs=0.03)


def test_pods_draw_independently() -> None:
    one = deploy.most(scenario())
    assert deploy.most(scenario(pods=3, rate=30.0)) == pytest.approx(1 - (1 - one) ** 3)


def test_the_smallest_jitter_of_two_workers() -> None:
    """The search finds the first that keeps to the target, by the closed form."""
    asked = scenario(limit=100_000)
    advice = smallest_jitter(asked, 0.01, seed=0)
    assert advice.jitter is not None
    assert advice.chance.high <= 0.01
    assert both_down_chance(2, advice.jitter, 10.0, 10.0) <= 0.01
    assert both_down_chance(2, advice.jitter - 1, 10.0, 10.0) > 0.01


def test_no_jitter_is_found_where_workers_boot_for_long() -> None:
    advice = smallest_jitter(scenario(), 0.01, seed=0)
    assert advice.jitter is None
    assert advice.chance.value == pytest.approx(both_down_chance(2, 1000, 10.0, 10.0))
    assert advice.limit is not None
    assert both_down_chance(2, advice.limit, 10.0, 10.0) <= 0.01
    assert both_down_chance(2, advice.limit - 1, 10.0, 10.0) > 0.01


def test_the_long_run_counts_too(mocker: MockerFixture) -> None:
    """With a little jitter workers that have met stay close for many rounds."""
    mocker.patch.object(outlook, "replications", lambda _, scenario, __: scenario.jitter)
    mocker.patch.object(outlook, "long_run", lambda jitter: Estimate.exact(float(jitter < 50_000)))
    assert smallest_jitter(scenario(limit=100_000), 0.01, seed=0).jitter == 50_000


def test_one_worker_has_no_other_to_be_down_with() -> None:
    assert smallest_jitter(scenario(workers=1), 0.01, seed=0).jitter == 0
