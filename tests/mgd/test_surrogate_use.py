"""What a step may do with the extra loss of a surrogate: its value counts, the rest is refused."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metagrad
from metagrad import mgd

STEPS = 4


def losses(params, examples):
    x, y = examples
    return (jnp.tanh(x @ params["w"]) + params["b"] - y) ** 2


def outer(state):
    return jnp.sum((state["params"]["w"] - 1) ** 2) + jnp.sin(state["total"])


def downhill(params, gradient, rate):
    return jax.tree.map(lambda p, g: p - rate * g, params, gradient)


def sums_its_loss(gradients, state, meta, batch, extra=mgd.no_extra):
    """The value of the loss is in the state, and in the step's rate."""
    loss = lambda params: jnp.mean(losses(params, batch)) + extra(params)
    value, gradient = gradients(loss)(state["params"])
    params = downhill(state["params"], gradient, 0.1 * value)
    return {"params": params, "total": state["total"] + value}


def sharpness_aware(gradients, state, meta, batch, extra=mgd.no_extra):
    loss = lambda params: jnp.mean(losses(params, batch)) + extra(params)
    uphill = downhill(state["params"], gradients(loss)(state["params"])[1], -0.3)
    params = downhill(state["params"], gradients(loss)(uphill)[1], 0.1)
    return {**state, "params": params}


def by_line_search(gradients, state, meta, batch, extra=mgd.no_extra):
    """The value alone is taken elsewhere."""
    loss = lambda params: jnp.mean(losses(params, batch)) + extra(params)
    value, gradient = gradients(loss)(state["params"])
    further = loss(downhill(state["params"], gradient, 0.5))
    return {**state, "params": downhill(state["params"], gradient, 0.1 * value / further)}


def by_curvature(gradients, state, meta, batch, extra=mgd.no_extra):
    loss = lambda params: jnp.mean(losses(params, batch)) + extra(params)
    gradient = jax.grad(loss)(state["params"])
    curved = jax.jvp(jax.grad(loss), (state["params"],), (gradient,))[1]
    return {**state, "params": downhill(state["params"], curved, 0.1)}


def problem():
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (6, 3))
    pool = x, 1 + jnp.sin(x[:, 0])
    order = jax.random.randint(keys[1], (STEPS, 4), 0, 6)
    params = {"w": jnp.array([0.3, -0.2, 0.1]), "b": jnp.array(0.1)}
    return {"params": params, "total": jnp.array(0.0)}, tuple(p[order] for p in pool), pool


def surrogate(step, at, params=lambda state: state["params"]):
    def with_ours(*arguments):
        return step(metagrad.value_and_grad, *arguments)

    return mgd.surrogate(with_ours, losses, outer, at=at, params=params, chunk=4)


@pytest.mark.parametrize("at", [1, (1, 2)])
def test_the_value_of_the_loss_counts(at):
    with jax.enable_x64(True):
        state0, batches, pool = problem()
        value, gradient, _ = surrogate(sums_its_loss, at)(state0, jnp.ones(6), batches, pool)

        def run(z):
            state, added = state0, lambda params: jnp.sum(z * losses(params, pool))
            for t in range(STEPS):
                extra = added if t in np.atleast_1d(at) else mgd.no_extra
                batch = jax.tree.map(lambda leaf, t=t: leaf[t], batches)
                state = sums_its_loss(jax.value_and_grad, state, None, batch, extra)
            return outer(state)

        expected, exact = jax.value_and_grad(run)(jnp.zeros(6))
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        np.testing.assert_allclose(gradient, exact, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("step", "at", "message"),
    [
        (sharpness_aware, -1, "with other parameters than params"),
        (sharpness_aware, (-2, -1), "with other parameters than params"),
        (by_line_search, -1, "with other parameters than params"),
        (by_curvature, -1, "takes second derivatives"),
    ],
)
def test_uses_that_would_make_it_wrong_are_refused(step, at, message):
    state0, batches, pool = problem()
    with pytest.raises(ValueError, match=message):
        surrogate(step, at)(state0, jnp.ones(6), batches, pool)


def test_other_parameters_of_the_same_structure_are_refused():
    state0, batches, pool = problem()
    moved = lambda state: jax.tree.map(lambda leaf: leaf + 0.01, state["params"])
    with pytest.raises(ValueError, match="with other parameters than params"):
        surrogate(sums_its_loss, -1, moved)(state0, jnp.ones(6), batches, pool)
    wider = lambda state: {**state["params"], "b": state["params"]["b"][None]}
    with pytest.raises(ValueError, match=r"shape \(\) for params\['b'\]"):
        surrogate(sums_its_loss, -1, wider)(state0, jnp.ones(6), batches, pool)


def test_parameters_that_the_step_casts_are_the_same():
    state0, batches, pool = problem()

    def gradient_with(dtype):
        def cast(gradients, state, meta, batch, extra=mgd.no_extra):
            def loss(params):
                narrow = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
                return jnp.mean(losses(params, batch)) + extra(narrow)

            _, gradient = gradients(loss)(state["params"])
            return {**state, "params": downhill(state["params"], gradient, 0.1)}

        return surrogate(cast, -2)(state0, jnp.ones(6), batches, pool).grad

    exact = gradient_with(jnp.float32)
    np.testing.assert_allclose(
        gradient_with(jnp.bfloat16), exact, atol=0.02 * float(jnp.abs(exact).max())
    )


def test_losses_must_be_one_for_each_example():
    state0, batches, pool = problem()
    column = lambda params, examples: losses(params, examples)[:, None]
    step = lambda *arguments: sums_its_loss(metagrad.value_and_grad, *arguments)
    mg = mgd.surrogate(step, column, outer, at=-1, params=lambda state: state["params"])
    with pytest.raises(
        ValueError,
        match=r"losses must return the loss of each example, of shape \(6,\) .* shape \(6, 1\)",
    ):
        mg(state0, jnp.ones(6), batches, pool)


@pytest.mark.parametrize("at", [-1, (0, 1)])
def test_a_training_that_diverges_is_not_blamed_on_the_step(at):
    state0, batches, pool = problem()
    state0["params"]["w"] = jnp.full(3, jnp.nan)
    warned = contextlib.nullcontext() if at == -1 else pytest.warns(match="NaN or infinity")
    with warned:
        result = surrogate(sums_its_loss, at)(state0, jnp.ones(6), batches, pool)
    assert np.isnan(result.value)


@pytest.mark.parametrize("at", [-1, (1, 2)])
def test_whole_counts_do_not_cut_the_gradient(at):
    state0, batches, pool = problem()
    of_floats, of_integers = (
        surrogate(sums_its_loss, at)(state0, jnp.ones(6, dtype), batches, pool).grad
        for dtype in (jnp.float32, jnp.int32)
    )
    assert of_integers.dtype == jnp.float32 and np.abs(of_floats).max() > 0
    assert np.array_equal(of_floats, of_integers)


@pytest.mark.parametrize("at", [-1, -2, (1, 2)])
def test_a_step_that_forgets_extra_is_refused(at):
    state0, batches, pool = problem()

    def forgets(gradients, state, meta, batch, extra=mgd.no_extra):
        return sums_its_loss(gradients, state, meta, batch)

    with pytest.raises(ValueError, match="step never calls its fourth argument, extra"):
        surrogate(forgets, at)(state0, jnp.ones(6), batches, pool)


def test_an_empty_pool_is_refused():
    state0, batches, _ = problem()
    with pytest.raises(ValueError, match="pool has no arrays"):
        surrogate(sums_its_loss, -1)(state0, jnp.ones(6), batches, ())
