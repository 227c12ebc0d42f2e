"""A product of an array with itself, whose two operands are one value.

A pass that rewrites both operands meets the same operation twice.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import unrolled

import metagrad


@pytest.mark.parametrize("narrow", [jnp.float16, jnp.bfloat16, None])
@pytest.mark.parametrize("wide", [jnp.float32, None])
def test_gram_matrix(narrow, wide):
    def loss(params, meta, batch):
        x = jnp.tanh(params * batch)
        x = x if narrow is None else x.astype(narrow)
        gram = jax.lax.dot_general(x, x, (((1,), (1,)), ((), ())), preferred_element_type=wide)
        return meta * jnp.sum(gram.astype(jnp.float32) ** 2)

    def step(params, meta, batch):
        return params - 0.1 * metagrad.grad(loss)(params, meta, batch)

    arguments = (
        jnp.asarray(np.linspace(-1, 1, 6).reshape(2, 3), jnp.float32),
        jnp.float32(0.5),
        jnp.asarray(np.linspace(0.5, 1.5, 18).reshape(3, 2, 3), jnp.float32),
    )
    step = metagrad.compile(step)
    outer = lambda params: jnp.sum(params**2)
    wrt = ("meta", "state")
    result = step.metagradient(outer, wrt)(*arguments)
    value, grad, _ = unrolled.unrolled(step, outer, wrt, *arguments)
    unrolled.assert_close(result.value, value, 1e-6, "value")
    # Sums of f16 and bf16 are rounded in the order in which they are made.
    unrolled.assert_close(result.grad, grad, 1e-6 if narrow is None else 2e-2)
