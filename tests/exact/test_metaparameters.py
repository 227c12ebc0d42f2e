"""What metagradients are taken for: learning rates, data, weights of the loss."""

import jax
import jax.numpy as jnp
import runs
from jax import lax
from small_steps import EVERYTHING, SCHEDULE
from unrolled import assert_exact, who

import metagrad


def test_learning_rate_of_every_step():
    """Metaparameters chosen by a counter in the state."""

    @metagrad.compile
    def step(s, rates, batch):
        g = metagrad.grad(runs.loss)(s["params"], runs.meta(), batch)
        return {
            "params": jax.tree.map(lambda p, g: p - rates[s["t"]] * g, s["params"], g),
            "t": s["t"] + 1,
        }

    rates = jnp.linspace(0.3, 0.1, 6)
    result, _ = assert_exact(
        step,
        runs.outer,
        ("meta", "state"),
        {"params": runs.params(), "t": 0},
        rates,
        runs.data(6),
        schedule=SCHEDULE,
    )
    assert result.grad[0].shape == (6,) and (result.grad[0] != 0).all()


def test_data_as_metaparameter():
    """Poisoning: all steps draw from one data set, the metaparameter; the batches are indices."""

    def loss(p, data, chosen):
        return jnp.mean((runs.predict(p, data["x"][chosen]) - data["y"][chosen]) ** 2)

    @metagrad.compile
    def step(s, data, chosen):
        return {
            "params": jax.tree.map(
                lambda p, g: p - 0.2 * g,
                s["params"],
                metagrad.grad(loss)(s["params"], data, chosen),
            )
        }

    whole = {"x": runs.data(3)["x"].reshape(-1, runs.FEATURES), "y": runs.data(3)["y"].reshape(-1)}
    chosen = jnp.asarray([[0, 1, 2], [3, 4, 5], [0, 0, 6], [7, 2, 11], [10, 9, 8]])
    assert_exact(
        step, runs.outer, "meta", {"params": runs.params()}, whole, chosen, schedule=SCHEDULE
    )


def test_learned_weighting_of_the_loss():
    """A small network that weighs each example by its loss, trained by the metagradient."""

    def loss(p, z, batch):
        errors = (runs.predict(p, batch["x"]) - batch["y"]) ** 2
        weights = jax.nn.sigmoid(jnp.tanh(lax.stop_gradient(errors)[:, None] * z["a"]) @ z["b"])
        return jnp.mean(weights * errors)

    step = metagrad.compile(
        lambda s, z, b: {
            "params": jax.tree.map(
                lambda p, g: p - 0.2 * g, s["params"], metagrad.grad(loss)(s["params"], z, b)
            )
        }
    )
    z = {"a": jnp.linspace(-1.0, 1.0, 3), "b": jnp.ones(3)}
    _, lowered = assert_exact(
        step, runs.outer, EVERYTHING, {"params": runs.params()}, z, runs.data(5), schedule=SCHEDULE
    )
    assert who(lowered) == ["enzyme"] * 3
