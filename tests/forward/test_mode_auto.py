"""mode="auto": the mode that is predicted to be faster, or that fits, and why."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact.unrolled import DOUBLE, assert_close

import metagrad


@metagrad.compile
def step(w, pieces, batch):
    x, i = batch
    g = metagrad.grad(lambda w: jnp.mean((jnp.tanh(x @ w) - 0.5) ** 2))(w)
    return w - pieces[i % len(pieces)] * g


def outer(w):
    return jnp.sum(w**2)


def arguments(count, steps=50, width=3):
    xs = np.random.default_rng(0).normal(size=(steps, 4, width))
    return np.ones(width), np.full(count, 0.1), (xs, np.arange(steps))


def lowered(count, schedule=None, **sizes):
    mg = step.metagradient(outer, mode="auto", schedule=schedule)
    return mg.lower(*arguments(count, **sizes))


def test_one_number_goes_forward():
    one = lowered(1)
    assert isinstance(one.plan, metagrad.ForwardPlan)
    assert "K = 1 is predicted to take" in str(one.plan) and one.plan.predicted_seconds > 0
    first = one.explain().splitlines()[0]
    assert first.startswith("mode: forward, chosen by mode='auto': ")
    assert "from counts of operations" in first
    exact = step.metagradient(outer)(*arguments(1))
    assert_close(one.compile()(*arguments(1)).grad, exact.grad, DOUBLE)


def test_many_numbers_go_back():
    for count, why in ((20, "K = 20 is predicted to take"), (65, "push 65 tangents")):
        many = lowered(count, width=2000, steps=5)
        assert isinstance(many.plan, metagrad.Plan)
        assert (
            f"mode       reverse, by mode='auto': forward mode {'with' if count < 65 else ''}"
            in (str(many.plan))
        )
        assert why in str(many.plan) and why in many.explain().splitlines()[0]


def test_what_fits():
    """A budget for some states; forward mode needs two, and 20 tangents of each."""
    sizes = {"steps": 40, "width": 400}
    wide = arguments(3, **sizes)
    batches = sum(leaf.nbytes for leaf in wide[2])
    budget = metagrad.Auto(memory=batches + 40 * wide[0].nbytes)
    assert "the budget is" in lowered(60, budget, **sizes).explain()
    smaller = metagrad.Auto(memory=batches + 9 * wide[0].nbytes)
    with pytest.raises(ValueError, match="no plan for 40 steps fits"):
        step.metagradient(outer, schedule=smaller, runtime="fused").lower(*wide)
    forward = lowered(1, smaller, **sizes)
    assert isinstance(forward.plan, metagrad.ForwardPlan)
    assert "no plan of reverse mode fits" in str(forward.plan)


def test_measured_costs():
    budget = metagrad.Auto(memory="64MiB")
    assert "from measured costs" in lowered(1, budget).explain()


def test_what_has_no_forward_mode_goes_back():
    @jax.custom_vjp
    def f(x):
        return x

    f.defvjp(lambda x: (x, None), lambda _, cotangent: (cotangent,))
    ours = metagrad.compile(lambda w, z, x: w - f(z * x))
    result = ours.metagradient(lambda w: w, mode="auto").lower(1.0, 0.1, jnp.ones(2))
    assert "a tangent goes through a custom_vjp function" in result.explain()
    by_enzyme = metagrad.compile(lambda w, z, x: w - z * x, ad="enzyme")
    result = by_enzyme.metagradient(lambda w: w, mode="auto").lower(1.0, 0.1, jnp.ones(2))
    assert "forward mode is JAX's" in result.explain()


def test_streams_go_back():
    w, pieces, batches = arguments(1, steps=5)
    mg = step.metagradient(outer, mode="auto")
    streamed = mg(w, pieces, metagrad.Stream(batches))
    assert_close(streamed.grad, mg(w, pieces, batches).grad, DOUBLE)
