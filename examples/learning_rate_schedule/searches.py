"""What the learned schedule is compared with."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

PEAKS = np.geomspace(0.02, 2.0, 15)
WARMUPS = 0.0, 0.05, 0.1, 0.2, 0.4
FINALS = 1.0, 0.3, 0.1, 0.01
SHAPES = "linear", "cosine"

TUNING_FREE = {
    "mechanize": optax.contrib.mechanize(optax.sgd(1.0, momentum=0.9)),
    "prodigy": optax.contrib.prodigy(),
    "dog": optax.contrib.dog(),
}
"""Rules of optax that need no learning rate, as they are by default."""


def schedule(steps, peak, warmup, final, shape):
    """A warm-up from zero to the peak, then a decay to final * peak: float32 [steps]."""
    step = (np.arange(steps) + 1) / steps
    done = np.clip((step - warmup) / (1 - warmup), 0, 1)
    falling = 1 - done if shape == "linear" else (1 + np.cos(np.pi * done)) / 2
    rising = np.minimum(step / warmup, 1) if warmup else 1.0
    return (peak * rising * (final + (1 - final) * falling)).astype(np.float32)


def grid(steps):
    """All combinations: (what each is, rates [600, steps])."""
    chosen = list(itertools.product(PEAKS, WARMUPS, FINALS, SHAPES))
    return chosen, np.stack([schedule(steps, *each) for each in chosen])


def measure(task, rates, keys):
    """The validation loss of each schedule with each key: [schedules, keys]."""
    return np.asarray(_losses(task, jnp.asarray(rates), keys))


@jax.jit
def _losses(task, rates, keys):
    run = lambda rates, key: task.run(rates, key)["validation loss"]
    return jax.lax.map(lambda one: jax.vmap(run, (None, 0))(one, keys), rates, batch_size=10)


def best(losses):
    """The schedule with the lowest mean over keys; one that diverged is the worst."""
    return int(np.argmin(np.nan_to_num(losses.mean(axis=1), nan=np.inf)))
