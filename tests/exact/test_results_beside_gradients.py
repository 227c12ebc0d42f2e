"""What losses and steps return beside the gradient: statistics, auxiliary results."""

import operator

import jax
import jax.numpy as jnp
import pytest
import runs
from jax import lax
from small_steps import EVERYTHING, SCHEDULE, check
from unrolled import assert_exact, who

import metagrad


def normalised(p, statistics, x):
    """A layer with batch normalisation; gives also the running statistics."""
    h = x @ p["w1"] + p["b1"]
    mean, var = jnp.mean(h, 0), jnp.var(h, 0)
    running = {
        "mean": 0.9 * statistics["mean"] + 0.1 * mean,
        "var": 0.9 * statistics["var"] + 0.1 * var,
    }
    return jnp.tanh((h - mean) / jnp.sqrt(var + 1e-3)) @ p["w2"], running


def test_batch_statistics_flow_in_the_state():
    """The loss's aux is the next state's, and the outer function reads it."""

    def loss(p, statistics, z, batch):
        predicted, running = normalised(p, statistics, batch["x"])
        return jnp.mean(z["weights"] * (predicted - batch["y"]) ** 2), running

    @metagrad.compile
    def step(s, z, batch):
        g, running = metagrad.grad(loss, has_aux=True)(s["params"], s["statistics"], z, batch)
        return {
            "params": jax.tree.map(lambda p, g: p - jnp.exp(z["rate"]) * g, s["params"], g),
            "statistics": running,
        }

    def outer(s):
        x = runs.data(1, seed=7)["x"][0]
        h = (x @ s["params"]["w1"] + s["params"]["b1"] - s["statistics"]["mean"]) / jnp.sqrt(
            s["statistics"]["var"] + 1e-3
        )
        return jnp.mean((jnp.tanh(h) @ s["params"]["w2"]) ** 2)

    state = {
        "params": runs.params(),
        "statistics": {"mean": jnp.zeros(runs.WIDTH), "var": jnp.ones(runs.WIDTH)},
    }
    _, lowered = check(step, state, outer=outer)
    assert who(lowered) == ["enzyme"] * 3


def test_aux_of_the_step_is_stacked():
    @metagrad.compile(has_aux=True)
    def step(s, z, batch):
        value, g = metagrad.value_and_grad(runs.loss)(s["params"], z, batch)
        new = {"params": jax.tree.map(lambda p, g: p - jnp.exp(z["rate"]) * g, s["params"], g)}
        return new, {"loss": value, "signs": jnp.sign(g["w2"]).astype(jnp.int8), "name": "step"}

    state, batches = {"params": runs.params()}, runs.data(5)
    result, _ = check(step, state, batches=batches, step_has_aux=True)
    losses = []
    for t in range(5):
        state, aux = step(state, runs.meta(), jax.tree.map(operator.itemgetter(t), batches))
        losses.append(aux["loss"])
    assert jnp.allclose(result.aux["loss"], jnp.stack(losses), rtol=1e-12)
    assert result.aux["signs"].shape == (5, runs.WIDTH) and result.aux["signs"].dtype == jnp.int8
    assert result.aux["name"] == "step"


def test_outer_with_arguments_and_aux():
    def outer(s, held_out, scale):
        error = (runs.predict(s["params"], held_out["x"]) - held_out["y"]) ** 2
        return scale * jnp.mean(error), {"errors": error, "count": jnp.asarray(len(error))}

    held_out = jax.tree.map(lambda leaf: leaf[0], runs.data(1, seed=7))
    arguments = {"params": runs.params()}, runs.meta(), runs.data(4), held_out, 0.5
    result, _ = assert_exact(
        runs.sgd(), outer, EVERYTHING, *arguments, schedule=SCHEDULE, has_aux=True
    )
    assert jnp.allclose(0.5 * jnp.mean(result.value[1]["errors"]), result.value[0], rtol=1e-12)
    assert result.value[1]["count"] == runs.EXAMPLES


RULES = {"enzyme": {}, "jax": {"ad": "jax"}, "jax-mixed": {}}


@pytest.mark.parametrize("rule", RULES)
def test_a_result_that_the_step_does_not_read_has_no_cotangent(rule):
    """Nothing is multiplied by infinity.

    The loss's value and aux have an infinite derivative in the data, its gradient has none.
    """

    def loss(p, z, batch):
        root = jnp.sqrt(jnp.sum(batch["x"] ** 2))
        fitted = jnp.sum(z["weights"]) * sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(p))
        return (jax.checkpoint(jnp.sin)(fitted) if rule == "jax-mixed" else fitted) + root, root

    gradient = lambda p, z, batch: metagrad.grad(loss, has_aux=True)(p, z, batch)[0]
    batches = jax.tree.map(jnp.zeros_like, runs.data(3))
    _, lowered = check(
        runs.sgd(gradient, **RULES[rule]), {"params": runs.params()}, batches=batches
    )
    assert who(lowered)[0] == rule


@pytest.mark.parametrize("ad", ["auto", "jax"])
def test_auxiliary_results_need_no_derivative(ad):
    """The step and the outer function have float results beside what is differentiated.

    One of them comes from an operation that has no derivative in JAX.
    """

    @metagrad.compile(has_aux=True, ad=ad)
    def step(s, z, batch):
        new = {
            "params": jax.tree.map(
                lambda p, g: p - jnp.exp(z["rate"]) * g,
                s["params"],
                metagrad.grad(runs.loss)(s["params"], z, batch),
            )
        }
        doubled = lax.while_loop(
            lambda v: jnp.sum(v) < 10, lambda v: 2 * v, 1 + new["params"]["w2"] ** 2
        )
        return new, {"doubled": doubled, "w2": new["params"]["w2"]}

    def outer(s):
        return runs.outer(s), {
            "w2": 2 * s["params"]["w2"],
            "floor": jnp.floor(
                lax.while_loop(lambda v: v < 10, lambda v: 2 * v, 1 + s["params"]["b1"][0] ** 2)
            ),
        }

    _, lowered = check(
        step, {"params": runs.params()}, outer=outer, step_has_aux=True, has_aux=True
    )
    assert who(lowered)[0] == {"auto": "enzyme", "jax": "jax"}[ad] and set(who(lowered)) == {
        who(lowered)[0]
    }
