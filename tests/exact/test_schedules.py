"""The gradient is the same whatever the schedule.

All schedules and every `wrt`, numbers of steps that are not a power of k, one step, k beyond T.
"""

import functools
import itertools

import jax
import optax
import pytest
import runs
import unrolled

from metagrad import Binomial, LazyKary, Periodic, StoreAll

SCHEDULES = {
    "lazy 2-ary": lambda T: LazyKary(2),
    "lazy 3-ary": lambda T: LazyKary(3),
    "lazy 4-ary": lambda T: LazyKary(4),
    "lazy, k > T": lambda T: LazyKary(T + 3),
    "lazy, rebuilt": lambda T: LazyKary(2, rebuild=2),
    "lazy, gradients not kept": lambda T: LazyKary(3, keep_gradients=False),
    "binomial, 1 slot": lambda T: Binomial(1),
    "binomial": lambda T: Binomial(3),
    "binomial, rebuilt": lambda T: Binomial(2, rebuild=2),
    "binomial, gradients not kept": lambda T: Binomial(2, keep_gradients=False),
    "periodic": lambda T: Periodic(3),
    "periodic, rebuilt": lambda T: Periodic(4, rebuild=2),
    "periodic, gradients not kept": lambda T: Periodic(2, keep_gradients=False),
    "store all": lambda T: StoreAll(),
    "store all, gradients not kept": lambda T: StoreAll(keep_gradients=False),
    "default": lambda T: None,
}
STEPS = (1, 2, 5, 7, 16)


@functools.cache
def adam():
    return runs.with_optax(optax.adam(0.05, eps_root=1e-8))


@functools.cache
def reference(steps, wrt):
    step, state = adam()
    return unrolled.unrolled(step, runs.outer, wrt, state, runs.meta(), runs.data(steps))


def check(schedule, steps, wrt=("meta", "state", "batches")):
    step, state = adam()
    result = step.metagradient(runs.outer, wrt, schedule=schedule)(
        state, runs.meta(), runs.data(steps)
    )
    value, grad, final = reference(steps, wrt)
    unrolled.assert_close(result.value, value, unrolled.DOUBLE, "value")
    unrolled.assert_close(result.grad, grad, unrolled.DOUBLE)
    unrolled.assert_close(result.state, final, unrolled.DOUBLE, "state")


# Each schedule meets two numbers of steps, each number of steps six schedules or more; 7 is a power
# of nothing.
CHOSEN = [(name, 7) for name in SCHEDULES] + [
    (name, steps) for name, steps in zip(SCHEDULES, itertools.cycle((16, 5, 1, 2)))
]


@pytest.mark.parametrize("name, steps", CHOSEN, ids=lambda value: str(value))
def test_schedule(name, steps):
    check(SCHEDULES[name](steps), steps)


@pytest.mark.filterwarnings("ignore:Numba not available")
@pytest.mark.parametrize("steps", [1, 7])
def test_schedules_of_another_package(steps):
    cs = pytest.importorskip("checkpoint_schedules")
    check(cs.Revolve(steps, 2) if steps > 1 else cs.SingleMemoryStorageSchedule(), steps)
    check(cs.MultistageCheckpointSchedule(steps, 1, 1), steps)


ORDERS = [*itertools.permutations(("meta", "state", "batches"), 2), ("batches", "state", "meta")]


@pytest.mark.parametrize("wrt", ORDERS, ids="-".join)
def test_every_wrt(wrt):
    check(LazyKary(2), 5, wrt)


@pytest.mark.parametrize("wrt", ["meta", "state", "batches"])
def test_a_name_gives_the_tree_itself_and_a_tuple_gives_a_tuple(wrt):
    step, state = adam()
    alone = step.metagradient(runs.outer, wrt, schedule=LazyKary(2))(
        state, runs.meta(), runs.data(5)
    ).grad
    argument = {"meta": runs.meta(), "state": state, "batches": runs.data(5)}[wrt]
    assert jax.tree.structure(alone) == jax.tree.structure(argument)
    unrolled.assert_close((alone,), reference(5, (wrt,))[1], unrolled.DOUBLE)


def test_all_of_it_is_enzymes_work():
    step, state = adam()
    lowered = step.metagradient(runs.outer).lower(state, runs.meta(), runs.data(3))
    assert unrolled.who(lowered) == ["enzyme", "enzyme", "enzyme"]
