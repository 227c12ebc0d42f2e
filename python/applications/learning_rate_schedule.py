"""Learns a learning-rate schedule for the user's own training step.

The schedule has key points, evenly spaced over the run, and is linear between them. What is learned
is the logarithm of the rate at each key point, so that rates stay positive and a step changes them
by a factor. (Engstrom et al. 2025, arXiv 2503.13751, learn such schedules from a flat
start.)
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.api.plain_steps import steps_of
from metagrad.api.step_types import Mode
from metagrad.api.train_step import TrainStep
from metagrad.api.train_step import compile as compile_step
from metagrad.mgd.descent import descent
from metagrad.mgd.results import DescentResult


def rate_at(log_rates: Any, step: Any, steps: int) -> jax.Array:
    """The rate at a step: linear between key points at the steps 0, ..., steps - 1.

    Args:
      log_rates: [P], P at least 1: the logarithm of the rate at each key point. One is a constant.
      step: an integer from 0, or an array of them. After the last step the rate stays.
      steps: T, how many steps the run has.

    Returns:
      Rates of the shape of `step`, positive, in the dtype of `log_rates`.

    >>> import jax.numpy as jnp
    >>> rate_at(jnp.log(jnp.array([1.0, 3.0])), jnp.arange(5), 5)
    Array([1. , 1.5, 2. , 2.5, 3. ], dtype=float32)
    """
    log_rates = jnp.asarray(log_rates)
    # Steps in narrower floats would be rounded to others.
    wide = jnp.promote_types(log_rates.dtype, jnp.float32)
    places = jnp.linspace(0, max(steps - 1, 1), log_rates.shape[0], dtype=wide)
    rates = jnp.interp(jnp.asarray(step, wide), places, jnp.exp(log_rates.astype(wide)))
    is_float = jnp.issubdtype(log_rates.dtype, jnp.floating)
    return rates.astype(log_rates.dtype) if is_float else rates


@dataclasses.dataclass(frozen=True)
class LearnedSchedule:
    """A schedule that `learn` has found.

    Attributes:
      rates: float [T], the rate of each step.
      log_rates: float [P], of the key points.
      descent: the descent, with its history.
    """

    rates: np.ndarray
    log_rates: jax.Array
    descent: DescentResult

    def schedule(self, count: Any) -> jax.Array:
        """The rate at a step, as optax's optimisers take it: `optax.sgd(learned.schedule)`."""
        return rate_at(self.log_rates, count, len(self.rates))

    def plot(self, ax: Any = None) -> Any:
        """Draws the rates over the steps, on a logarithmic axis. Returns the matplotlib axes.

        Raises:
          ImportError: matplotlib is not installed.
        """
        if ax is None:
            try:
                from matplotlib import pyplot
            except ImportError:
                raise ImportError(
                    'LearnedSchedule.plot needs matplotlib: pip install "metagrad[examples]"'
                ) from None
            ax = pyplot.subplots(figsize=(5, 3.2), layout="constrained")[1]
        ax.semilogy(self.rates)
        ax.set_xlabel("step")
        ax.set_ylabel("learning rate")
        return ax


def learn(
    step: Callable[[Any, Any, Any], Any],
    outer: Callable[..., Any],
    problem: Callable[..., tuple],
    *,
    steps: int,
    start: float,
    points: int = 8,
    rounds: int = 20,
    optimizer: Any = None,
    ad: Mode = "auto",
    metagradient: dict[str, Any] | None = None,
    **options: Any,
) -> LearnedSchedule:
    """Learns the schedule with which training ends up with the lowest outer value.

    A round costs one metagradient of the run for each seed. Give the problem another order of the
    data and other initial parameters in each round (from its key), and several `seeds`, if the
    schedule shall be good for any of them: one that is learned for a single run fits that run.

    Args:
      step: `step(state, rate, batch) -> new_state`, one step at a learning rate, a scalar. With
        optax: `optax.scale_by_adam(eps_root=1e-8)`, whose updates are multiplied by -rate.
      outer: `outer(state, *outer_args)`, a scalar: the loss on held-out data, say.
      problem: `problem(round, key) -> (state0, batches, *outer_args)`, as of `metagrad.descent`.
      steps: T, how many batches a run has.
      start: the rate of every key point at the beginning: a flat schedule.
      points: P, how many key points there are.
      rounds: of the descent.
      optimizer: an optax transformation of the logarithms; None: Adam with a rate of 0.3 that falls
        to zero along a cosine.
      ad: of `metagrad.compile`.
      metagradient: options of `TrainStep.metagradient`, such as `schedule`.
      **options: of `metagrad.descent`: `seeds`, `key`, `progress`, `resume_dir`, ...

    Returns:
      A `LearnedSchedule`: that of the last round, whose optimiser has come to rest. (With few seeds
      the round with the lowest value, `descent.best`, is the one with the luckiest draw.)

    Raises:
      ValueError: `start` is not positive, a number is too small, or a run has not T batches.
      TypeError: `step` is not a function, or the problem does not return what it has to.
      Exception: as `metagrad.descent`.
    """
    import optax

    _check(step, steps, start, points)
    if optimizer is None:
        optimizer = optax.adam(optax.cosine_decay_schedule(0.3, max(rounds, 1)), b1=0.8, b2=0.95)
    train_step = compile_step(_with_schedule(step, steps), ad=ad)
    mg = train_step.metagradient(lambda state, *args: outer(state[1], *args), **metagradient or {})
    log_rates = jnp.full(points, math.log(start))
    result = descent(mg, log_rates, _counted(problem, steps), optimizer, rounds=rounds, **options)
    rates = rate_at(result.meta, jnp.arange(steps), steps)
    return LearnedSchedule(np.asarray(rates), result.meta, result)


def _with_schedule(step: Callable, steps: int) -> Callable:
    """The step whose metaparameters are the key points; its state begins with a counter."""

    @functools.wraps(step)
    def scheduled(state: Any, log_rates: Any, batch: Any) -> Any:
        count, own = state
        return count + 1, step(own, rate_at(log_rates, count, steps), batch)

    return scheduled


def _counted(problem: Callable[..., tuple], steps: int) -> Callable[..., tuple]:
    """The problem, with a counter before the state."""

    @functools.wraps(problem)
    def counted(*args: Any, **kwargs: Any) -> tuple:
        drawn = problem(*args, **kwargs)
        if not isinstance(drawn, tuple) or len(drawn) < 2:
            raise TypeError(
                f"problem returned {type(drawn).__name__}, and it has to return the tuple "
                "(state0, batches, *outer_args)"
            )
        state0, batches, *outer_args = drawn
        if steps_of(batches) != steps:
            raise ValueError(
                f"steps={steps}, and the problem has {steps_of(batches)} batches: the schedule "
                "would not end with the run"
            )
        return ((jnp.zeros((), jnp.int32), state0), batches, *outer_args)

    return counted


def _check(step: Any, steps: Any, start: Any, points: Any) -> None:
    if not callable(step) or isinstance(step, TrainStep):
        raise TypeError(
            f"step must be an undecorated function of (state, rate, batch), got {step!r}"
        )
    if operator.index(steps) < 1 or operator.index(points) < 1:
        raise ValueError(f"steps={steps} and points={points} must be at least 1")
    if not 0 < start < math.inf:
        raise ValueError(f"start={start} must be a positive rate")
