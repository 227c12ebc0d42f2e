"""What the table must not admit: functions that JAX differentiates, each with an input."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from metagrad.runtime import jax_internals

X = jnp.arange(1.0, 4.0)
SQUARE = jnp.eye(3) + 0.1


@jax.custom_jvp
def relu(x):
    return jnp.maximum(x, 0.0)


relu.defjvps(lambda g, ans, x: 7.0 * g)

relu_inside = jax.custom_jvp(jax.nn.relu.fun)
relu_inside.defjvps(lambda g, ans, x: 7.0 * g)
softmax_inside = jax.custom_jvp(
    jax_internals.function("nn.functions", "_softmax").fun, nondiff_argnums=(1,)
)
softmax_inside.defjvp(
    lambda axis, primals, tangents: (softmax_inside(primals[0], axis), 7.0 * tangents[0])
)


@jax.custom_vjp
def clipped(x):
    return x


clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -1, 1),))

DECLINED = {
    "a custom_jvp of the user's, by the name of JAX's": (relu, X),
    "a custom_jvp of the user's, for the function inside JAX's": (relu_inside, X),
    "a custom_jvp of the user's, for the function inside JAX's with an axis": (
        lambda x: softmax_inside(x, 0),
        X,
    ),
    "a custom_vjp of the user's": (clipped, X),
    "`jnp.i0`": (jnp.i0, X),
    "`jnp.fft.fft`": (lambda x: jnp.abs(jnp.fft.fft(x)).sum(), X),
    "complex numbers": (lambda x: jnp.abs(x + 1j), X),
    "`jnp.linalg.cholesky`": (jnp.linalg.cholesky, SQUARE),
    "`jnp.linalg.svd` with full matrices": (jnp.linalg.svd, SQUARE[:2]),
    "`jnp.linalg.qr`": (jnp.linalg.qr, SQUARE),
    "`jnp.linalg.solve`": (lambda a: jnp.linalg.solve(a, a[0]), SQUARE),
    "`lax.while_loop` on what is differentiated": (
        lambda x: lax.while_loop(lambda c: c[0] < 9, lambda c: c * 2, x),
        X,
    ),
    "`lax.pad` with a padding value that is differentiated": (
        lambda x: lax.pad(x, x[0], ((1, 1, 0),)),
        X,
    ),
    "`lax.reduce_window` with dilated windows and max": (
        lambda x: lax.reduce_window(
            x, -jnp.inf, lax.max, (2,), (1,), "VALID", window_dilation=(2,)
        ),
        X,
    ),
    "`lax.reduce_precision`": (lambda x: lax.reduce_precision(x, 8, 7), X),
    "`.at[].multiply` at indices that may repeat": (
        lambda x: x.at[np.array([0, 1])].multiply(x[:2]),
        X,
    ),
    "`jax.random.gamma`, second order": (lambda x: jax.random.gamma(jax.random.key(0), x), X),
    "`gammainc` in its first operand, second order": (lambda x: lax.igamma(x, x), X),
}
