"""Where a gradient is exactly zero, an adaptive optimiser takes a root of zero.

The derivative is JAX's, also where that is NaN; a warning then says why.
"""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from exact.unrolled import assert_exact
from optax import contrib

import metagrad

EVERYTHING = ("meta", "state")


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def dead_relu(p, z, x):
    """The second unit is off for every example."""
    return jnp.mean((jax.nn.relu(x @ p["w"] + p["b"]) @ jnp.ones(2) - z) ** 2)


def unused_row(p, z, x):
    """An embedding of three rows, of which the batches use two."""
    return jnp.mean((p["w"][jnp.array([0, 2])] @ x.T - z) ** 2) + jnp.sum(p["b"] ** 2)


def zero_weights(p, z, x):
    """Two layers that are both zero: so are their gradients."""
    return jnp.mean((x @ p["w"] @ p["b"] - z) ** 2)


PARAMS = {
    dead_relu: {"w": jnp.full((2, 2), 0.3), "b": jnp.array([0.5, -9.0])},
    unused_row: {"w": jnp.linspace(0.2, 0.9, 6).reshape(3, 2), "b": jnp.array([1.0, -0.4])},
    zero_weights: {"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)},
}


def training(loss, optimiser):
    @metagrad.compile
    def step(s, z, x):
        g = metagrad.grad(loss)(s["p"], z, x)
        updates, opt = optimiser.update(g, s["opt"], s["p"])
        return {"p": optax.apply_updates(s["p"], updates), "opt": opt}

    params = jax.tree.map(lambda leaf: leaf.astype(jnp.result_type(float)), PARAMS[loss])
    state = {"p": params, "opt": optimiser.init(params)}
    batches = jnp.asarray(np.random.default_rng(0).uniform(0.5, 1.5, (5, 4, 2)))
    return (
        step,
        lambda s: jnp.sum(s["p"]["w"] ** 2) + jnp.sum(s["p"]["b"]),
        (state, jnp.asarray(1.5), batches),
    )


def compared(loss, optimiser):
    """(texts of the warnings, whether the gradient has a NaN), once the result is JAX's.

    It must have the same numbers, and NaN where JAX has NaN.
    """
    step, outer, arguments = training(loss, optimiser)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result, _ = assert_exact(step, outer, EVERYTHING, *arguments)
    has_nan = any(
        np.isnan(leaf).any() for leaf in jax.tree.leaves(result.grad) if leaf.dtype == jnp.float64
    )
    return [
        str(warning.message) for warning in caught if warning.category is RuntimeWarning
    ], has_nan


# The function in optax that takes the root, the leaf that it takes it of, and whether `eps_root`
# helps.
W, B = "nu['w'], the gradient in state['p']['w']", "nu['b'], the gradient in state['p']['b']"
BY_ADAM, CLIPPING = "scale_by_adam (optax/_src/transform.py:", "(optax/transforms/_clipping.py:"
NAN = {
    "adam, dead relu": (dead_relu, optax.adam(0.1), BY_ADAM, f"state['opt'][0].{B}", True),
    "adamw, unused row": (unused_row, optax.adamw(0.1), BY_ADAM, f"state['opt'][0].{W}", True),
    "nadam, zero weights": (zero_weights, optax.nadam(0.1), BY_ADAM, f"state['opt'][0].{B}", True),
    "lamb, unused row": (unused_row, optax.lamb(0.1), BY_ADAM, f"state['opt'][0].{W}", True),
    "muon, unused row": (
        unused_row,
        contrib.muon(0.1, muon_weight_dimension_numbers={"w": None, "b": None}),
        BY_ADAM,
        W,
        True,
    ),
    "MultiSteps, dead relu": (
        dead_relu,
        optax.MultiSteps(optax.adam(0.1), 2, accumulator_dtype=jnp.float64),
        BY_ADAM,
        B,
        True,
    ),
    "rmsprop": (
        unused_row,
        optax.rmsprop(0.1, eps_in_sqrt=False),
        "scale_by_rms (optax/_src/transform.py:",
        f"state['opt'][0].{W}",
        False,
    ),
    "block norms": (
        zero_weights,
        optax.chain(optax.adaptive_grad_clip(0.1), optax.sgd(0.1)),
        f"adaptive_grad_clip {CLIPPING}",
        "state['p']['b']",
        False,
    ),
    "global norm": (
        zero_weights,
        optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1)),
        "clip_by_global_norm (optax/tree_utils/_tree_math.py:",
        "the gradient in state['p']['b'], the gradient in state['p']['w']",
        False,
    ),
}


@pytest.mark.parametrize("name", NAN)
def test_nan_and_a_warning_that_says_why(name):
    loss, optimiser, function, leaf, has_eps_root = NAN[name]
    texts, has_nan = compared(loss, optimiser)
    assert has_nan and len(texts) == 1
    assert re.search(
        r"the metagradient has a NaN or infinity in the gradient of .*\. Training is finite\. ",
        texts[0],
    )
    assert f"At step 0 {function}" in texts[0]
    assert leaf in texts[0].split("what it computes from ")[1]
    assert (
        "Give the optimiser `eps_root`: optax.adam(1e-3, eps_root=1e-8)" in texts[0]
    ) == has_eps_root


FINITE = {
    "adam": optax.adam(0.1, eps_root=1e-8),
    "MultiSteps": optax.MultiSteps(
        optax.adam(0.1, eps_root=1e-8), 2, accumulator_dtype=jnp.float64
    ),
    "rmsprop": optax.rmsprop(0.1),
    "adagrad": optax.adagrad(0.1),
    "adagrad from zero": optax.adagrad(0.1, initial_accumulator_value=0.0),
    "adafactor": optax.adafactor(0.1, min_dim_size_to_factor=2),
    "lars": optax.lars(0.1),
}


@pytest.mark.parametrize("name", FINITE)
def test_finite_and_silent(name):
    assert compared(unused_row, FINITE[name]) == ([], False)


@pytest.mark.parametrize("name", ["adagrad from zero", "lars"])
def test_finite_where_all_is_zero(name):
    assert compared(zero_weights, FINITE[name]) == ([], False)


def test_radam_early_in_training():
    """The branch that it does not take has the root of a negative number, and not of zero."""
    texts, has_nan = compared(unused_row, optax.radam(0.1, eps_root=1e-8))
    assert has_nan and "metagradient(check_nans=True) repeats the run backward" in texts[0]


def test_adafactor_in_single_precision():
    """Its 1e-30 keeps the root from zero, and in f32 the derivative overflows all the same."""
    with jax.enable_x64(False):
        step, outer, arguments = training(
            unused_row, optax.adafactor(0.1, min_dim_size_to_factor=4)
        )
        with pytest.warns(
            RuntimeWarning,
            match=r"scale_by_factored_rms \(optax/_src/factorized.py:\d+\) takes a root \(`pow`\) "
            "of zero or next to it in 2 of 6 entries",
        ):
            step.metagradient(outer, EVERYTHING)(*arguments)
