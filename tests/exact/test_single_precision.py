"""In f32, JAX's default: within 1e-5 of the gradient in f64.

The training run has to be one whose own rounding allows that, in JAX's gradient too. Adam's usual
b2 = 0.999 does not: its bias correction 1 - b2 is off by 3e-5 in f32. Nor does one step of Adam
alone, which is g / |g|, whose derivative cancels.
"""

import jax
import jax.numpy as jnp
import optax
import pytest
import runs
import unrolled

from metagrad import Binomial, LazyKary, StoreAll

pytestmark = pytest.mark.single
EVERYTHING = ("meta", "state", "batches")


ADAM, MOMENTUM = optax.adam(0.05, b1=0.8, b2=0.9, eps_root=1e-4), optax.sgd(0.1, momentum=0.9)
CASES = {
    "adam, lazy": (ADAM, LazyKary(2), 7),
    "adam, rebuilt": (ADAM, Binomial(3, rebuild=2), 7),
    "adam, store all": (ADAM, StoreAll(keep_gradients=False), 16),
    "momentum, lazy": (MOMENTUM, LazyKary(2), 7),
    "momentum, one step": (MOMENTUM, LazyKary(2), 1),
}


@pytest.mark.parametrize("name", CASES)
def test_single_precision(name):
    optimiser, schedule, steps = CASES[name]
    step, state = runs.with_optax(optimiser)
    arguments = state, runs.meta(), runs.data(steps)
    result = step.metagradient(runs.outer, EVERYTHING, schedule=schedule)(*arguments)
    assert {leaf.dtype for leaf in jax.tree.leaves(result.grad)} <= {
        jnp.dtype(jnp.float32),
        jax.dtypes.float0,
    }
    with jax.enable_x64(True):
        double = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float64) if unrolled.is_float(leaf) else leaf, arguments
        )
        value, grad, final = unrolled.unrolled(step, runs.outer, EVERYTHING, *double)
        unrolled.assert_close(result.value, value, unrolled.SINGLE, "value")
        unrolled.assert_close(result.grad, grad, unrolled.SINGLE)
        unrolled.assert_close(result.state, final, unrolled.SINGLE, "state")
