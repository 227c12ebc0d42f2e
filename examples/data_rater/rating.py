"""The network that rates a sequence, and how it is learned.

Several language models train side by side, each at another age: each is made new after LIFETIME
outer steps, at another time than the others. In an outer step all of them make T inner steps of
Adam, on batches weighted by the ratings. The metagradients of their held-out losses, one program
for all models by `jax.vmap`, are averaged, and optax updates the rating network.
"""

import functools

import jax
import jax.numpy as jnp
import optax

import metagrad
from examples import language_model

STEPS, BATCH, MODELS, LIFETIME = 4, 24, 3, 45
OPTIMISER = optax.adam(3e-3, eps_root=1e-8)


# --- The rating network ---------------------------------------------------------------------------


def initial(key, width=16, hidden=32):
    """Parameters; the last layer starts at zero, so that all ratings are equal."""
    of_characters, of_pairs = jax.random.split(key)
    characters = len(language_model.CHARACTERS)
    return {
        "characters": 0.5 * jax.random.normal(of_characters, (characters, width)),
        "pairs": jax.random.normal(of_pairs, (2 * width, hidden)) / (2 * width) ** 0.5,
        "rating": jnp.zeros(hidden),
    }


def ratings(rater, pieces):
    """[n]: a function of the neighbouring characters of each sequence, averaged over it."""
    x = rater["characters"][pieces]
    pairs = jnp.concatenate([x[:, :-1], x[:, 1:]], -1)
    return jnp.mean(jax.nn.gelu(pairs @ rater["pairs"]), 1) @ rater["rating"]


# --- Training under ratings -----------------------------------------------------------------------


def weighted_loss(params, rater, pieces):
    weights = jax.nn.softmax(ratings(rater, pieces))
    return weights @ language_model.losses(params, pieces)


@metagrad.compile
def step(state, rater, pieces):
    params, moments = state
    gradient = metagrad.grad(weighted_loss)(params, rater, pieces)
    updates, moments = OPTIMISER.update(gradient, moments, params)
    return optax.apply_updates(params, updates), moments


def held_out_loss(state, pieces):
    return jnp.mean(language_model.losses(state[0], pieces))


def new_model(key):
    params = language_model.initial(key)
    return params, OPTIMISER.init(params)


def renewed(states, ages, key):
    """States in which the models that are LIFETIME outer steps old are new, and the ages."""
    fresh = jax.vmap(new_model)(jax.random.split(key, MODELS))
    old = ages >= LIFETIME
    pick = lambda new, kept: jnp.where(old.reshape(-1, *[1] * (new.ndim - 1)), new, kept)
    return jax.tree.map(pick, fresh, states), jnp.where(old, 0, ages)


@functools.partial(jax.jit, static_argnums=3)
def learn(pool, held_out, key, rounds):
    """(rating network after `rounds` outer steps, the models' mean held-out loss of each).

    Args:
      pool, held_out: int32 [n, 33].
      key: of parameters and batches.
      rounds: outer steps.
    """
    mg = step.metagradient(held_out_loss, schedule=metagrad.StoreAll(), progress=False)
    optimiser = optax.adam(optax.cosine_decay_schedule(0.02, rounds))

    def outer_step(carry, key):
        rater, moments, states, ages = carry
        of_models, of_batches, of_loss = jax.random.split(key, 3)
        states, ages = renewed(states, ages, of_models)
        batches = pool[jax.random.randint(of_batches, (MODELS, STEPS, BATCH), 0, len(pool))]
        unseen = held_out[jax.random.randint(of_loss, (64,), 0, len(held_out))]
        run = lambda state, batches: mg(state, rater, batches, unseen)
        values, gradients, states = jax.vmap(run)(states, batches)
        gradient = jax.tree.map(lambda g: jnp.mean(g, 0), gradients)
        updates, moments = optimiser.update(gradient, moments)
        rater = optax.apply_updates(rater, updates)
        return (rater, moments, states, ages + 1), values.mean()

    of_rater, of_states, of_rounds = jax.random.split(key, 3)
    rater = initial(of_rater)
    states = jax.vmap(new_model)(jax.random.split(of_states, MODELS))
    ages = jnp.arange(MODELS) * LIFETIME // MODELS
    start = rater, optimiser.init(rater), states, ages
    (rater, *_), values = jax.lax.scan(outer_step, start, jax.random.split(of_rounds, rounds))
    return rater, values
