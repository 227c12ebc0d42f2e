"""Tries an installed wheel without Enzyme: JAX's derivatives against a finite difference."""

import jax
import jax.numpy as jnp

import metagrad

jax.config.update("jax_enable_x64", True)


@metagrad.compile(ad="jax")
def step(w, rate, x):
    return w - rate * metagrad.grad(lambda w: jnp.sum(jnp.sin(w - x) ** 2))(w)


def final(rate):
    result = step.metagradient(jnp.sum, schedule=metagrad.Binomial(3))(w, rate, xs)
    return result.value, result.grad


w, xs = jnp.linspace(0.1, 0.9, 3), jnp.linspace(-1.0, 1.0, 24).reshape(8, 3)
grad = final(jnp.asarray(0.1))[1]
difference = (final(jnp.asarray(0.1 + 1e-6))[0] - final(jnp.asarray(0.1 - 1e-6))[0]) / 2e-6
assert abs(grad - difference) < 1e-6 * abs(grad), (grad, difference)
print(f"d sum(w) / d rate is {grad:.6f}")
