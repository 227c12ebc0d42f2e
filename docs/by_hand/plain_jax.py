"""The metagradient in plain JAX: checkpointed scans."""

import jax
import jax.numpy as jnp
import optax

from problem import (
    batches,
    cross_entropy,
    optimiser,
    state0,
    validation_loss,
    weights,
    x,
    x_validation,
    y,
    y_validation,
)


# --- step ---
# one Adam step on weighted examples
def train_step(state, weights, i):
    params, opt_state = state

    def loss(params):
        losses = cross_entropy(params, x[i], y[i])
        return jnp.mean(weights[i] * losses)

    gradient = jax.grad(loss)(params)
    updates, opt_state = optimiser.update(
        gradient, opt_state, params
    )
    return optax.apply_updates(params, updates), opt_state


# --- run ---
LENGTH = 8  # of a segment: about sqrt(T)


@jax.checkpoint  # a segment holds its first state
def run_segment(state, weights, rows):
    @jax.checkpoint  # a step holds no activations
    def one(state, i):
        return train_step(state, weights, i), None

    return jax.lax.scan(one, state, rows)[0]


def run(weights, state0, batches, *outer_args):
    def one(state, rows):
        return run_segment(state, weights, rows), None

    segments = jax.tree.map(
        lambda b: b.reshape(-1, LENGTH, *b.shape[1:]), batches
    )
    state, _ = jax.lax.scan(one, state0, segments)
    return validation_loss(state, *outer_args), state


metagradient = jax.jit(jax.value_and_grad(run, has_aux=True))

# --- call ---
(value, state), grad = metagradient(
    weights, state0, batches, x_validation, y_validation
)
