"""The metagradient with metagrad."""

import jax.numpy as jnp
import metagrad
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
@metagrad.compile
def train_step(state, weights, i):
    params, opt_state = state

    def loss(params):
        losses = cross_entropy(params, x[i], y[i])
        return jnp.mean(weights[i] * losses)

    gradient = metagrad.grad(loss)(params)
    updates, opt_state = optimiser.update(
        gradient, opt_state, params
    )
    return optax.apply_updates(params, updates), opt_state


# --- run ---
metagradient = train_step.metagradient(
    validation_loss, schedule=metagrad.Periodic(every=8)
)

# --- call ---
value, grad, state = metagradient(
    state0, weights, batches, x_validation, y_validation
)
