"""Metagradient descent on the learning-rate schedule (Engstrom et al. 2025, arXiv 2503.13751).

It learns the logarithm of every step's learning rate, so that rates stay positive and a change is a
ratio. The metagradient of single steps is rough, since neighbouring steps do much the same work on
other batches. So the schedule is

    log_rate = start + K theta,      K a Gaussian average over neighbouring steps,

and Adam descends on theta with the gradient K^T d(loss)/d(log_rate). One round costs one
metagradient of the whole run.
"""

from typing import Any, NamedTuple

import numpy as np
import optax

# In units of log rate per round: a rate changes by at most about exp(0.4), one half, in a round.
# The memories are short because there are few rounds.
META_OPTIMISER = optax.adam(0.4, b1=0.7, b2=0.9)
SMOOTH = 1 / 40  # width of the average, as a fraction of the run


class Round(NamedTuple):
    log_rate: np.ndarray  # [T], what this round trained with
    validation_loss: float
    state: Any  # where its training run ended


def gaussian_average(steps):
    """K: float64 [T, T], each row sums to one."""
    step = np.arange(steps)
    weight = np.exp(-0.5 * ((step[:, None] - step) / max(1.0, SMOOTH * steps)) ** 2)
    return weight / weight.sum(axis=1, keepdims=True)


def descend(metagradient, start, rounds):
    """Yields a Round for `start` and after each of `rounds` updates.

    `metagradient(log_rate)` returns (validation loss, its gradient [T], the final state). Where an
    update has made training diverge, the descent stops after the last finite round.
    """
    average = gaussian_average(len(start))
    theta = np.zeros(len(start), np.float32)
    memory = META_OPTIMISER.init(theta)
    for _ in range(rounds + 1):
        log_rate = (start + average @ theta).astype(np.float32)
        value, gradient, state = metagradient(log_rate)
        if not (np.isfinite(value) and np.all(np.isfinite(gradient))):
            return
        yield Round(log_rate, float(value), state)
        change, memory = META_OPTIMISER.update(
            (average.T @ np.asarray(gradient)).astype(np.float32), memory
        )
        theta = theta + np.asarray(change)
