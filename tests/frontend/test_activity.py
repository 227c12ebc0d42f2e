"""Which leaves of the state have a cotangent from step to step.

Those that `wrt` reaches and that reach the outer value.
"""

import itertools

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metagrad.compiler.dialect.metagrad import Layout
from metagrad.frontend.jaxprs import activity

ALL = ("meta", "state", "batches")


def active(step, outer, *, state, meta=1, batch=0, wrt=("meta",)):
    """The leaves between steps.

    The i-th new leaf of the step depends on the arguments `step[i]`, the outer value on the leaves
    `outer`.
    """
    total = lambda args, chosen: sum((args[i] for i in sorted(chosen)), start=jnp.zeros(()))
    numbers = lambda count: [jax.ShapeDtypeStruct((), jnp.float32)] * count
    new_state = jax.make_jaxpr(lambda *args: [total(args, chosen) for chosen in step])(
        *numbers(state + meta + batch)
    )
    value = jax.make_jaxpr(lambda *args: [total(args, outer)])(*numbers(state))
    layout = Layout(state=state, meta=meta, batch=batch, outer=0)
    return activity.find_activity(new_state, value, [], layout, wrt).between_steps()


@pytest.mark.parametrize(
    "step, outer, expected",
    [
        pytest.param([{0, 2}, set()], {0}, [0], id="weights and a counter"),
        pytest.param(
            [{0, 1, 2}, {1}],
            {0, 1},
            [0],
            id="a frozen leaf that the loss and the outer function read",
        ),
        pytest.param([{0, 2}, {0, 1}], {0}, [0], id="an average of the weights that nothing reads"),
        pytest.param(
            [{0, 1, 2}, {0, 1, 2}], {0}, [0, 1], id="momentum, read by the weights of the next step"
        ),
        pytest.param(
            [{0, 1}, {2}], {0}, [0, 1], id="the metaparameter reaches the weights a step later"
        ),
        pytest.param([{0}, {1}], {0, 1}, [], id="the metaparameter reaches nothing"),
        pytest.param([{0, 2}, {1, 2}], set(), [], id="the outer value depends on nothing"),
        pytest.param([{1}, {0, 2}], {0}, [0, 1], id="leaves that exchange places"),
    ],
)
def test_active_state_of_two_leaves(step, outer, expected):
    """Argument 2 is the metaparameter."""
    assert active(step, outer, state=2) == expected


def test_the_fixed_point_needs_as_many_rounds_as_there_are_leaves():
    """z -> leaf 9 -> .. -> leaf 0 -> outer, one step each, however the leaves are numbered."""
    down = [{i + 1} for i in range(10)]
    assert active(down, {0}, state=10) == list(range(10))
    assert active(down, {4}, state=10) == list(range(4, 10))
    up = [{10}] + [{i} for i in range(9)]
    assert active(up, {9}, state=10) == list(range(10))
    assert active(up, {4}, state=10) == list(range(5))


def test_wrt_decides_what_varies():
    """The outer function reads all.

    Leaf 0 depends on itself, leaf 1 on the metaparameter (2), leaf 2 on the batch (4 with 3
    leaves).
    """
    step, outer = [{0}, {1, 3}, {2, 4}], {0, 1, 2}
    chosen = {wrt: active(step, outer, state=3, meta=1, batch=1, wrt=(wrt,)) for wrt in ALL}
    assert chosen == {"meta": [1], "batches": [2], "state": [0, 1, 2]}
    assert active(step, outer, state=3, meta=1, batch=1, wrt=("meta", "batches")) == [1, 2]


def test_state_that_does_not_reach_the_outer_value_needs_no_cotangent():
    assert active([{0}, {1}], {1}, state=2, wrt=("state",)) == [1]


@st.composite
def cases(draw):
    state, meta, batch = (draw(st.integers(low, 4)) for low in (1, 0, 0))
    of_all = st.frozensets(st.integers(0, state + meta + batch - 1), max_size=3)
    step = draw(st.lists(of_all, min_size=state, max_size=state))
    outer = draw(st.frozensets(st.integers(0, state - 1)))
    wrt = draw(
        st.sampled_from(
            [subset for size in (1, 2, 3) for subset in itertools.combinations(ALL, size)]
        )
    )
    return step, outer, state, meta, batch, wrt


@given(cases())
def test_active_state_is_what_lies_on_a_path(case):
    """Against its meaning.

    The leaves through which a path leads, in any number of steps, from what `wrt` names to the
    outer value.
    """
    step, outer, state, meta, batch, wrt = case
    groups = {
        "state": range(state),
        "meta": range(state, state + meta),
        "batches": range(state + meta, state + meta + batch),
    }
    sources = {i for name in wrt for i in groups[name]}

    # Unrolled for as many steps as a path without repetition can have: the leaves that depend on a
    # source, ..
    varied = [{leaf for leaf in sources if leaf < state}]
    for _ in range(state + 1):
        varied.append({leaf for leaf in range(state) if step[leaf] & (sources | varied[-1])})
    # .. and those on which the outer value depends.
    useful = [set(outer)]
    for _ in range(state + 1):
        useful.append({source for leaf in useful[-1] for source in step[leaf] if source < state})

    expected = set().union(*varied) & set().union(*useful)
    assert active(step, outer, state=state, meta=meta, batch=batch, wrt=wrt) == sorted(expected)
