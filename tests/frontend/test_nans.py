"""`check_nans=True` says in which leaf and at which step a NaN first appeared."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metagrad


def mixed(params, **more):
    """A state with integer, boolean, key, Python and non-array leaves, which must do no harm."""
    return {
        "params": params,
        "count": 0,
        "flag": jnp.asarray(True),
        "key": jax.random.key(0),
        "old": jax.random.PRNGKey(0),
        "f": jnp.tanh,
        **more,
    }


def run(update, outer, params=(1.0, 2.0), z=1.0, steps=5, wrt="meta", batches=None, **options):
    """A step that updates `params` alone."""

    @metagrad.compile
    def step(s, z, b):
        return s | {
            "params": update(s["params"], z, b),
            "count": s["count"] + 1,
            "key": jax.random.split(s["key"])[0],
        }

    mg = step.metagradient(outer, wrt, check_nans=True, schedule=metagrad.LazyKary(2), **options)
    batches = {"t": jnp.arange(steps), "x": jnp.ones(steps)} if batches is None else batches
    return mg(mixed(jnp.asarray(params)), {"z": jnp.asarray(z)}, batches)


def test_nothing_to_report():
    result = run(lambda p, z, b: p - 0.1 * z["z"] * p, lambda s: jnp.sum(s["params"]))
    assert jnp.isfinite(result.grad["z"])


def test_training_gives_the_first():
    """At step 3 the batch makes a logarithm of a negative number."""
    update = lambda p, z, b: jnp.where(b["t"] == 3, jnp.log(-p), p * z["z"])
    with pytest.raises(FloatingPointError) as error:
        run(update, lambda s: jnp.sum(s["params"]))
    message = str(error.value)
    assert message.startswith(
        "the metagradient has a NaN in value, the gradient of meta['z'], the final "
        "state['params']. "
    )
    assert "Training itself gave the first NaN: at step 3, in state['params']." in message
    assert "Lower the learning rate, or look at that batch." in message


def test_outer_value():
    """The gradient of log(x) is finite where its value is not."""
    with pytest.raises(
        FloatingPointError,
        match=r"a NaN in value. Training has no NaN; the outer function's value is the first.",
    ):
        run(lambda p, z, b: p - z["z"], lambda s: jnp.log(s["params"][0]))


def test_outer_gradient():
    with pytest.raises(FloatingPointError) as error:
        run(
            lambda p, z, b: p * z["z"],
            lambda s: jnp.linalg.norm(s["params"] - s["params"]) + jnp.sum(s["params"]),
        )
    message = str(error.value)
    assert "a NaN in the gradient of meta['z']." in message
    assert (
        "the outer function's gradient has the first, in the cotangent of state['params']."
        in message
    )
    assert "a norm of zeros" in message


@jax.custom_vjp
def poisoned(x):
    """x, whose derivative is a NaN where there is a cotangent."""
    return x


poisoned.defvjp(lambda x: (x, None), lambda _, bar: (jnp.where(bar == 0, bar, jnp.nan),))


def test_queries():
    """It says which of them have a NaN, and goes back along the first of these."""

    def outer(state):
        first, second = state["params"]
        return jnp.stack([first**2, poisoned(second), second**3, poisoned(first)])

    with pytest.raises(FloatingPointError) as error:
        run(lambda p, z, b: p * z["z"], outer, wrt=("meta", "state"))
    message = str(error.value)
    assert "the gradient of state['params'] (queries 1, 3). " in message
    assert "the outer function's gradient has the first, in the cotangent of state[" in message
    with pytest.raises(FloatingPointError, match=r"the gradient of meta\['z'\] \(query 1\)\. "):
        run(lambda p, z, b: p * z["z"], lambda state: outer(state)[:3])


def test_vjp_of_a_step():
    """Training is fine; at step 2 a square root of zero is differentiated."""
    update = lambda p, z, b: (
        p * z["z"] + jnp.where(b["t"] == 2, jnp.sqrt(jnp.where(b["t"] == 2, p[0] - p[0], 1.0)), 0.0)
    )
    with pytest.raises(FloatingPointError) as error:
        run(update, lambda s: jnp.sum(s["params"]), wrt=("state", "meta"))
    message = str(error.value)
    assert "the gradient of state['params']" in message
    assert (
        "going backward it first appeared in the VJP of step 2, in the cotangent of "
        "state['params']." in message
    )
    assert "eps_root" in message


def test_adam_at_a_gradient_of_zero():
    optimiser = optax.adam(0.1)

    @metagrad.compile
    def step(s, z, x):
        g = metagrad.grad(lambda w: jnp.sum((w[:1] * z - x) ** 2))(s["w"])
        updates, opt = optimiser.update(g, s["opt"])
        return {"w": optax.apply_updates(s["w"], updates), "opt": opt}

    state = {"w": jnp.ones(2), "opt": optimiser.init(jnp.ones(2))}
    mg = step.metagradient(lambda s: jnp.sum(s["w"] ** 2), "state", check_nans=True)
    with pytest.raises(
        FloatingPointError,
        match=r"state\['w'\].*in the VJP of step 2, in the cotangent of .*eps_root",
    ):
        mg(state, jnp.asarray(1.0), jnp.ones(3))


def test_nan_in_the_arguments():
    batches = {"t": jnp.arange(3), "x": jnp.asarray([1.0, np.nan, 1.0])}
    with pytest.raises(FloatingPointError, match=r"It was in the arguments: batches\['x'\]\."):
        run(lambda p, z, b: p * z["z"] * b["x"], lambda s: jnp.sum(s["params"]), batches=batches)


def test_steps_and_outer_functions_with_aux():
    step = metagrad.compile(
        lambda s, z, b: (jnp.where(b == 1, jnp.log(-s), s * z), b), has_aux=True
    )
    mg = step.metagradient(lambda s, scale: (jnp.sum(s) * scale, s), has_aux=True, check_nans=True)
    with pytest.raises(
        FloatingPointError, match="Training itself gave the first NaN: at step 1, in state"
    ):
        mg(jnp.ones(2), 1.0, jnp.arange(3), 2.0)


def test_not_asked():
    step = metagrad.compile(lambda s, z, b: jnp.log(-s * z))
    assert jnp.isnan(
        step.metagradient(jnp.sum, check_nans=False)(jnp.ones(2), 1.0, jnp.arange(2)).grad
    )


def test_under_jit_it_says_that_nothing_is_checked():
    step = metagrad.compile(lambda s, z, b: s - z * jnp.sqrt(s - 1))
    mg = step.metagradient(jnp.sum, check_nans=True)
    with pytest.warns(UserWarning, match="check_nans=True checks nothing under jax.jit") as warned:
        gradient = jax.jit(lambda z: mg(jnp.ones(2), z, jnp.arange(2)).grad)(1.0)
    assert jnp.isnan(gradient) and warned[0].filename == __file__
    compiled = mg.lower(jnp.ones(2), 1.0, jnp.arange(2)).compile()
    with pytest.warns(UserWarning, match="check_nans=True checks nothing under jax.jit") as warned:
        jax.jit(lambda z: compiled(jnp.ones(2), z, jnp.arange(2)).grad)(1.0)
    assert warned[0].filename == __file__
