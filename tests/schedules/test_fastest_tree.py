"""The native search for the fastest tree, against the recursion and against all reversals."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reversals import Weights, fastest_reversal, fastest_tree
from test_plans_are_right import check

from metagrad import _native
from metagrad.runtime.schedules.plan import Plan

ADAM = Weights(advance=1.13, kept=0.13, update=0.13)
SLOW_SLOTS = Weights(advance=1.13, kept=0.43, update=0.2, save=0.3)
NOT_WORTH_KEEPING = Weights(advance=1.1, kept=1.4, update=0.7)
PLAIN_SGD = Weights(advance=1.0, kept=0.0, update=0.0)
WEIGHTS = [ADAM, SLOW_SLOTS, NOT_WORTH_KEEPING, PLAIN_SGD]


def tree(steps, states, gradients, weights):
    plan = Plan(**_native.plan_tree(steps, states, gradients, *weights))
    check(plan)
    assert plan.state_slots <= states and plan.gradient_slots <= gradients
    return plan


def seconds(plan, weights):
    plain = plan.advances - plan.keeps
    slots = plan.keeps * weights.kept + plan.saves * weights.save
    return plain * weights.advance + plan.updates * weights.update + slots


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 32), st.integers(1, 12), st.integers(0, 32), st.sampled_from(WEIGHTS))
def test_a_small_tree_is_the_fastest(steps, states, gradients, weights):
    states = min(states, steps)
    plan = tree(steps, states, gradients, weights)
    least = fastest_tree(steps, states, gradients, weights)
    assert seconds(plan, weights) == pytest.approx(least, rel=1e-12, abs=1e-12)


def test_no_reversal_is_faster_without_kept_gradients_or_with_all():
    """With some kept gradients there are faster ones, if states are held in two slots or less."""
    for steps in range(1, 6):
        for states in range(1, steps + 1):
            for gradients, weights in ((0, ADAM), (steps, SLOW_SLOTS), (0, NOT_WORTH_KEEPING)):
                plan = tree(steps, states, gradients, weights)
                least = fastest_reversal(steps, states, gradients, weights)
                assert seconds(plan, weights) == pytest.approx(least, abs=1e-9)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_price_finds_trees_next_to_the_fastest(weights):
    """For large runs: the bound is one, and the tree is within 2% of the recursion's."""
    for steps, states, gradients in (
        (90, 3, 10),
        (90, 8, 20),
        (90, 20, 7),
        (90, 5, 60),
        (90, 1, 30),
    ):
        made, bound = _native.priced_tree_seconds(steps, states, gradients, *weights)
        least = fastest_tree(steps, states, gradients, weights._replace(save=0.0))
        rest = steps * (1 + 2.67)
        assert bound <= least * (1 + 1e-9) + 1e-9
        assert least <= made * (1 + 1e-9) + 1e-9
        assert rest + made <= 1.02 * (rest + least)


@pytest.mark.parametrize(
    "steps, states, gradients", [(5_000, 2, 1), (5_000, 30, 200), (5_000, 400, 0), (20_000, 9, 33)]
)
@pytest.mark.parametrize("weights", [ADAM, NOT_WORTH_KEEPING])
def test_the_plan_of_a_large_tree_takes_what_was_said(steps, states, gradients, weights):
    plan = Plan(**_native.plan_tree(steps, states, gradients, *weights))
    plan.validate()
    made, bound = _native.priced_tree_seconds(steps, states, gradients, *weights)
    assert seconds(plan, weights._replace(save=0.0)) == pytest.approx(made, rel=1e-9)
    rest = steps * (1 + 2.67)
    assert rest + made <= 1.005 * (rest + bound)
