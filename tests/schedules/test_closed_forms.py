"""The counts of plans equal the closed forms of the papers, and those of `checkpoint_schedules`."""

from functools import lru_cache
from math import comb

import pytest

from metagrad.runtime.schedules import Binomial, LazyKary, Periodic, StoreAll

STEPS = [*range(1, 34), 48, 63, 64, 65, 100, 127, 128, 200, 255, 256, 257]


def ceil_log(k, n):
    depth = 0
    while k**depth < n:
        depth += 1
    return depth


def revolve(n, slots):
    """t(n, s) of Griewank and Walther 2000: the fewest advances that reverse n steps.

    There are s slots, that of the first state included.
    """
    r = 0
    while comb(slots + r, slots) < n:
        r += 1
    return r * n - comb(slots + r, slots + 1)


@lru_cache(None)
def fewest_advances(n, slots):
    """The same from the recursion, by search over all splits."""
    if n == 1:
        return 0
    if slots == 1:
        return n * (n - 1) // 2
    return min(
        j + fewest_advances(j, slots) + fewest_advances(n - j, slots - 1) for j in range(1, n)
    )


@pytest.mark.parametrize("k", [2, 3, 4, 5, 8, 12, 16])
def test_lazy_kary_holds_no_more_states_than_the_tree_is_deep(k):
    for T in STEPS:
        for options in ({"keep_gradients": False}, {}, {"rebuild": 3}):
            plan = LazyKary(k, **options).plan(T, gradients=True)
            units = -(-T // options.get("rebuild", 1))
            assert plan.state_slots <= (k - 1) * ceil_log(k, units) + 1, (T, options)
            assert plan.gradient_slots <= k * options.get("rebuild", 1) * options.get(
                "keep_gradients", True
            )


@pytest.mark.parametrize("k, depth", [(2, 1), (2, 5), (2, 8), (3, 4), (4, 3), (5, 3), (12, 2)])
def test_lazy_kary_advances_of_a_full_tree(k, depth):
    """A replayed subtree of depth j advances j (k - 1) k^(j - 1) steps.

    On each level the training run leaves k - 1 of them to replay.
    """
    T = k**depth
    replays = sum((k - 1) * j * (k - 1) * k ** (j - 1) for j in range(1, depth))
    for options in ({"keep_gradients": False}, {}):
        plan = LazyKary(k, **options).plan(T, gradients=True)
        assert plan.advances == T + replays
        assert plan.state_slots == (k - 1) * depth + 1
    leaves = T // k
    assert plan.gradients_on_the_spot == leaves - 1


def test_lazy_kary_advances_at_most_once_more_on_each_level():
    for k in (2, 3, 4, 7):
        for T in STEPS:
            assert LazyKary(k).plan(T, gradients=True).advances <= T * ceil_log(k, max(T, 2))


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 5, 8, 13, 24])
def test_binomial_is_the_optimum(slots):
    """T training steps are reversed in t(T + 1, s) advances.

    The outer function is the last of the T + 1 steps.
    """
    for T in STEPS:
        for options in ({"keep_gradients": False}, {}):
            plan = Binomial(slots, **options).plan(T, gradients=True)
            assert plan.advances == revolve(T + 1, slots)
            assert plan.state_slots == min(slots, T)
            assert plan.gradient_slots <= slots
        if T <= 65:
            assert plan.advances == fewest_advances(T + 1, slots)


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 8, 24])
@pytest.mark.parametrize("rebuild", [2, 3, 5])
def test_binomial_over_macro_steps(slots, rebuild):
    """The same over ceil(T / m) macro-steps of m steps.

    Each leaf but the first also runs to the last step of its last macro-step.
    """
    for macro_steps in (1, 2, 3, 7, 16, 33):
        T = macro_steps * rebuild
        plan = Binomial(slots, rebuild=rebuild).plan(T, gradients=True)
        replayed_leaves = plan.gradients_on_the_spot
        assert (
            plan.advances
            == rebuild * revolve(macro_steps + 1, slots) + (rebuild - 1) * replayed_leaves
        )
        assert plan.state_slots <= slots + 1


def test_binomial_runs_no_step_more_than_twice_up_to_324_steps_with_24_slots():
    assert Binomial(24).plan(324, gradients=True).advances <= 2 * 324
    assert revolve(325, 24) == 2 * 325 - comb(26, 25) == 624


@pytest.mark.parametrize("every", [1, 2, 3, 7, 16])
def test_periodic_replays_every_segment_but_the_last_once(every):
    for T in STEPS:
        for options in ({"keep_gradients": False}, {}):
            plan = Periodic(every, **options).plan(T, gradients=True)
            segments = -(-T // every)
            assert plan.advances == T + (segments - 1) * (every - 1)
            assert plan.state_slots <= segments + every - 1
            assert plan.gradient_slots <= every
        assert plan.gradients_on_the_spot == segments - 1


def test_store_all_runs_each_step_once():
    for T in STEPS:
        plan = StoreAll().plan(T, gradients=True)
        assert (plan.advances, plan.updates, plan.gradients_on_the_spot) == (T, 0, 0)
        assert (plan.state_slots, plan.gradient_slots) == (T, T)
        assert StoreAll(keep_gradients=False).plan(T, gradients=True).gradients_on_the_spot == T


@pytest.mark.parametrize(
    "schedule", [LazyKary(3, rebuild=2), Binomial(4, rebuild=2), Periodic(5, rebuild=2), StoreAll()]
)
def test_without_inner_gradients_nothing_is_kept(schedule):
    plan = schedule.plan(50, gradients=False)
    assert (plan.gradient_slots, plan.keeps, plan.updates) == (0, 0, 0)
    assert plan.gradients_on_the_spot == 50
