"""A streamed run is lowered for shapes, as a fused one is, and then called with numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metagrad


@metagrad.compile
def step(w, rate, batch):
    key, x = batch
    noise = 0.1 * jax.random.normal(key, w.shape)
    return w - rate * metagrad.grad(lambda w: jnp.sum((w * x - 1) ** 2))(w) + noise


def outer(w, scale):
    return scale * jnp.sum(w**2)


STEPS = 5
BATCHES = jax.random.split(jax.random.key(0), STEPS), np.linspace(0, 1, 3 * STEPS).reshape(-1, 3)
ARGUMENTS = np.ones(3), 0.1, BATCHES, 2.0
SCHEDULES = {
    "default": None,
    "Binomial": metagrad.Binomial(2),
    "budgets": metagrad.Auto("1GB", host="1GB"),
}


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), jnp.result_type(x)), tree)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_all_arguments_are_shapes(schedule):
    mg = step.metagradient(outer, ("meta", "state"), schedule=schedule, runtime="streamed")
    lowered = mg.lower(*shapes(ARGUMENTS))
    assert lowered.plan.steps == STEPS
    result, expected = lowered.compile()(*ARGUMENTS), mg(*ARGUMENTS)
    np.testing.assert_allclose(result.value, expected.value, rtol=1e-12)
    for one, other in zip(result.grad, expected.grad):
        np.testing.assert_allclose(one, other, rtol=1e-11)


def test_batches_alone_are_shapes():
    """Nothing is measured then, since there is no batch to run a step on."""
    state, rate, batches, scale = ARGUMENTS
    mg = step.metagradient(outer, schedule=SCHEDULES["budgets"])
    plan = mg.lower(state, rate, metagrad.Stream(shapes(batches)), scale).plan
    assert not plan.estimate.costs.measured


def test_what_does_not_fit_as_one_program():
    mg = metagrad.compile(lambda w, rate, x: jnp.sin(w) - rate * w * x).metagradient(
        jnp.sum, schedule=metagrad.Auto("300kB", host="1GB")
    )
    x = np.ones((2000, 1000), np.float32)  # 8 MB of batches
    arguments = np.ones(1000, np.float32), np.float32(0.1), x
    lowered = mg.lower(*shapes(arguments))
    np.testing.assert_allclose(
        lowered.compile()(*arguments).grad,
        metagrad.compile(lambda w, rate, x: jnp.sin(w) - rate * w * x)
        .metagradient(jnp.sum)(*arguments)
        .grad,
        rtol=1e-5,
    )


def test_a_call_needs_numbers(tmp_path):
    """It says so before anything is lowered or written."""
    mg = step.metagradient(outer, ("meta", "batches"), runtime="streamed")
    state, rate, batches, scale = ARGUMENTS
    stream = metagrad.Stream(shapes(batches), gradients=tmp_path / "gradients")
    for given in (shapes(batches), stream):
        with pytest.raises(TypeError, match=r"source\[0\] is a jax.ShapeDtypeStruct. A run can be"):
            mg(state, rate, given, scale)
    compiled = mg.lower(state, rate, stream, scale).compile()
    with pytest.raises(TypeError, match="A run can be lowered for shapes"):
        compiled(state, rate, stream, scale)
    assert not list(tmp_path.iterdir())
    with pytest.raises(TypeError, match=r"source\[1\] is a jax.ShapeDtypeStruct"):
        metagrad.Stream((np.ones(3), jax.ShapeDtypeStruct((3,), np.float32)))[0]


def test_shapes_of_what_is_no_real_number():
    with pytest.raises(TypeError, match="has the dtype complex64, not real numbers"):
        metagrad.Stream(jax.ShapeDtypeStruct((3, 2), np.complex64))
