"""Data selection by metagradient descent: how often each example of a pool is trained on.

The method is that of Engstrom et al. 2025 (arXiv 2503.13751). Every example has an
integer count. A round

1. draws a training order in which example i comes up in proportion to its count,
2. trains, and takes the metagradient g of the surrogate run, in which sum_i z_i l(x_i) is added to
   the loss of a late step (`metagrad.mgd.surrogate`),
3. moves each count with a small probability: up by one where g is negative, which is where more of
   the example would lower the outer value, else down by one, to zero at least.

The run has the same number of steps and the same batch size in every round, so there is one
compiled program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.mgd.counts import integer_counts
from metagrad.mgd.descent import descent
from metagrad.mgd.history import History
from metagrad.mgd.options import as_key
from metagrad.mgd.results import DescentResult
from metagrad.mgd.surrogates import surrogate

_MOVES = 2**32 - 1
"""What is folded into the key for the moves of the counts. Rounds fold in their own numbers."""


@dataclasses.dataclass(frozen=True)
class Selection:
    """What `select` returns.

    Attributes:
      counts: int64 [n], after the last round: how often an example is used, beside the others.
      best_counts: int64 [n], of the round with the lowest outer value.
      descent: the `metagrad.mgd.DescentResult` behind it.
    """

    counts: np.ndarray
    best_counts: np.ndarray
    descent: DescentResult

    @property
    def history(self) -> History:
        """The outer value of each round, and more, as a table that plots itself."""
        return self.descent.history

    @property
    def kept(self) -> np.ndarray:
        """The examples whose count is not zero: int64 [m], ascending."""
        return np.flatnonzero(self.counts)

    def order(self, steps: int, batch_size: int, seed: Any = 0) -> np.ndarray:
        """A training order with these counts, int32 [steps, batch_size]; see `order`."""
        return order(self.counts, steps, batch_size, seed)

    def __repr__(self) -> str:
        return (
            f"<Selection of {len(self.kept)} of {len(self.counts)} examples, counts up to "
            f"{self.counts.max()}, {len(self.history)} rounds>"
        )


def order(counts: Any, steps: int, batch_size: int, seed: Any = 0) -> np.ndarray:
    """Draws a training order: which examples each batch holds.

    In each epoch, example i comes up counts[i] times. Of a count that is not whole, the fraction is
    the probability of one more. Epochs are shuffled anew until the steps are full; a batch may
    reach over the end of one, so that all batches have one size. Counts with a sum below one are
    scaled to one.

    Args:
      counts: [n], not negative.
      steps, batch_size: of the run.
      seed: what `numpy.random.default_rng` takes.

    Returns:
      int32 [steps, batch_size], places in the pool.

    Raises:
      ValueError: a count is negative or not finite, all are zero, or the run has no steps.

    >>> from metagrad.applications import data_selection
    >>> sorted(data_selection.order([2, 0, 1], 2, 3).ravel().tolist())
    [0, 0, 0, 0, 2, 2]
    """
    counts = np.asarray(counts, np.float64)
    if counts.ndim != 1 or not np.isfinite(counts).all() or (counts < 0).any():
        raise ValueError("counts must be one row of numbers that are finite and not negative")
    if not counts.any():
        raise ValueError("all counts are zero, so there is nothing to train on")
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps={steps} and batch_size={batch_size} must be at least 1")
    counts = counts / min(1.0, counts.sum())
    random = np.random.default_rng(seed)
    needed, epochs, length = steps * batch_size, [], 0
    while length < needed:
        times = np.floor(counts + random.random(len(counts))).astype(np.int64)
        epochs.append(random.permutation(np.repeat(np.arange(len(counts)), times)))
        length += len(epochs[-1])
    return np.concatenate(epochs)[:needed].reshape(steps, batch_size).astype(np.int32)


def rows(pool: Any, order: Any) -> Any:
    """The batches of an order: each leaf [n, ...] of the pool becomes [steps, batch_size, ...]."""
    return jax.tree.map(lambda leaf: leaf[order], pool)


def select(
    step: Callable[..., Any],
    losses: Callable[[Any, Any], Any],
    outer: Callable[..., Any],
    start: Callable[[jax.Array], Any],
    pool: Any,
    outer_args: Sequence[Any] | Callable[[int, jax.Array], Sequence[Any]] = (),
    *,
    params: Callable[[Any], Any],
    steps: int,
    batch_size: int,
    rounds: int,
    at: int | Sequence[int] = -1,
    probability: Any = 0.1,
    counts: Any = None,
    most: int | None = None,
    seeds: int = 1,
    key: Any = 0,
    batches: Callable[[Any, np.ndarray], Any] = rows,
    chunk: int | None = None,
    callback: Callable[[Any], object] | None = None,
    resume_dir: Any = None,
    progress: Any = None,
    **options: Any,
) -> Selection:
    """Selects training data: lowers the outer value by steps on the count of each example.

    Args:
      step: `step(state, counts, batch, extra) -> new_state`, the training step, undecorated. It
        adds `extra(params)` to the loss that `metagrad.grad` is taken of. With
        `extra=metagrad.mgd.no_extra` as its default it is the plain step too. The counts are there
        to be read, and need not be.
      losses: `losses(params, examples) -> [m]`: the training loss of each of m examples.
      outer: `outer(state, *outer_args)`: what is to be low at the end of the run, on data of the
        target. A real scalar.
      start: `start(key) -> state0`. A new initial state in every round is a better average over
        runs; a model to fine-tune is the same for each key.
      pool: the n examples, a pytree of arrays [n, ...].
      outer_args: further arguments of the outer function; or a function of (round, key) that draws
        them: minibatches.
      params: `params(state)`: the parameters that the loss is called with.
      steps, batch_size: of each training run.
      rounds: how many. Each costs `seeds` metagradients of the steps behind `at`, and as many plain
        trainings and passes over the pool.
      at: the late step, or several: their gradients are added, which has less noise. Negative ones
        count from the end.
      probability: that a count moves in a round, or a function of the round.
      counts: int [n], to start from; None: one for each.
      most: the highest count that is allowed; None: any.
      seeds: training runs per round, of which the mean gradient is taken.
      key: of all draws, an integer or a key of `jax.random`.
      batches: `batches(pool, order)` makes the run's batches of an order int32 [steps, batch_size]:
        stacked arrays, or a `metagrad.Stream(pool, order)`, which reads them while the run goes on.
        (The passes over the pool have all of it on the device.)
      chunk: how many examples of the pool are on their way at the same time in `losses`; None: all.
      callback: called with a `metagrad.mgd.Round` after each round; True ends the selection.
      resume_dir, progress: as for `metagrad.descent`.
      **options: of `metagradient`: `schedule`, ...

    Returns:
      A `Selection`.

    Raises:
      TypeError, ValueError: an argument is not one of the above; all counts have become zero.
      metagrad.mgd.NotFiniteError: a round's value or gradient is not finite.

    >>> import jax.numpy as jnp, metagrad
    >>> from metagrad.applications import data_selection
    >>> losses = lambda w, x: (w - x) ** 2
    >>> def step(w, counts, x, extra=metagrad.mgd.no_extra):
    ...     return w - 0.1 * metagrad.grad(lambda w: jnp.mean(losses(w, x)) + extra(w))(w)
    >>> pool = jnp.array([0.0, 0.1, 2.0, 2.1, 9.0])
    >>> selection = data_selection.select(
    ...     step, losses, lambda w: (w - 2.0) ** 2, lambda key: jnp.float32(0), pool,
    ...     params=lambda w: w, steps=30, batch_size=5, rounds=8, probability=0.5,
    ... )
    >>> int(selection.counts[4])  # 9 draws the mean of the pool, 2.64, away from 2
    0
    """
    first = _first_counts(pool, counts, most)
    if not callable(start):
        raise TypeError(
            "start must be a function, start(key) -> state0, and not the state itself; it is a "
            f"{type(start).__name__}"
        )
    mg = surrogate(step, losses, outer, at=at, params=params, chunk=chunk, **options)

    def problem(round: int, key: jax.Array, meta: Any) -> tuple:
        start_key, order_key, outer_key = jax.random.split(key, 3)
        drawn = order(meta, steps, batch_size, np.asarray(jax.random.key_data(order_key)))
        arguments = outer_args(round, outer_key) if callable(outer_args) else outer_args
        return (start(start_key), batches(pool, drawn), pool, *arguments)

    result = descent(
        mg,
        first,
        problem,
        integer_counts(probability, key=jax.random.fold_in(as_key(key), _MOVES)),
        rounds=rounds,
        key=key,
        seeds=seeds,
        projection=None if most is None else lambda counts: jnp.minimum(counts, most),
        callback=callback,
        resume_dir=resume_dir,
        progress=progress,
    )
    best = first if result.best is None else result.best.meta
    return Selection(_whole(result.meta), _whole(best), result)


def _first_counts(pool: Any, counts: Any, most: int | None) -> jax.Array:
    """The counts of round 0, float32 [n].

    Raises:
      ValueError: the pool has no examples, or there is not a whole number for each.
    """
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(pool)}
    if len(sizes) != 1 or sizes <= {(), (0,)}:
        raise ValueError("the leaves of pool must all be [n, ...], with the same n, at least 1")
    if most is not None and most < 1:
        raise ValueError(f"most={most} must be at least 1")
    if counts is None:
        return jnp.ones(sizes.pop(), jnp.float32)
    counts = np.asarray(counts)
    if counts.shape not in sizes or (counts < 0).any() or (counts != np.floor(counts)).any():
        raise ValueError(f"counts must be {sizes.pop()[0]} whole numbers, not negative")
    if most is not None and counts.max() > most:
        raise ValueError(f"most={most}, and there is a count of {counts.max()}")
    return jnp.asarray(counts, jnp.float32)


def _whole(counts: jax.Array) -> np.ndarray:
    return np.asarray(counts).astype(np.int64)
