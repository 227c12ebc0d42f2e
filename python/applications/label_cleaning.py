"""Finds training examples whose labels do harm, and trains without them.

The score of an example is d outer / d weight at weight one, from the metagradient of the run: it is
positive where the example makes the held-out loss higher. (What an example does to a clean held-out
loss finds wrong labels that its own training loss does not: a network learns a systematic error as
if it were the truth.)
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.mgd.descent import descent
from metagrad.mgd.results import DescentResult


def suspects(scores: Any, count: int) -> np.ndarray:
    """The `count` examples with the highest score, the highest first: int [count].

    Args:
      scores: [n]. Ties keep their order.
    """
    return np.argsort(-np.asarray(scores), kind="stable")[:count]


def precision(scores: Any, wrong: Any) -> float:
    """The share of wrong labels among as many suspects as there are wrong labels.

    Args:
      scores: [n].
      wrong: bool [n], where the labels are known to be wrong. By chance the precision would be the
        share of them in all.

    Raises:
      ValueError: no label is known to be wrong.
    """
    wrong = np.asarray(wrong, bool)
    if not wrong.any():
        raise ValueError("wrong names no example, so there is no precision")
    return float(wrong[suspects(scores, int(wrong.sum()))].mean())


class DropState(NamedTuple):
    """The state of `drop_most_harmful`.

    Attributes:
      updates: int32, how many there have been.
      scores: [n], the gradient of each weight when it was last not zero.
      dropped_in: int32 [n], the update in which it was set to zero; -1 where it was not.
    """

    updates: jax.Array
    scores: jax.Array
    dropped_in: jax.Array


def drop_most_harmful(count: int) -> Any:
    """The optax transformation that sets `count` weights to zero in each update.

    They are the weights that are not zero yet and have the largest gradient. Those whose gradient
    is not positive stay: the examples do no harm.

    Args:
      count: examples per update, at least 1.

    Returns:
      An `optax.GradientTransformation` of weights [n], whose `update` needs them as `params`.

    Raises:
      ValueError: `count` is less than 1.
    """
    import optax

    if operator.index(count) < 1:
        raise ValueError(f"count={count} must be at least 1")

    def init(weights: Any) -> DropState:
        return DropState(
            jnp.zeros((), jnp.int32),
            jnp.zeros_like(weights),
            jnp.full(weights.shape, -1, jnp.int32),
        )

    def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, DropState]:
        if params is None:
            raise ValueError("drop_most_harmful needs the weights: update(..., params=weights)")
        is_left = params > 0
        harm, chosen = jax.lax.top_k(
            jnp.where(is_left, gradient, -jnp.inf), min(count, gradient.shape[0])
        )
        goes = jnp.zeros_like(is_left).at[chosen].set(harm > 0)
        new = DropState(
            state.updates + 1,
            jnp.where(is_left, gradient, state.scores),
            jnp.where(goes, state.updates, state.dropped_in),
        )
        return jnp.where(goes, -params, 0), new

    return optax.GradientTransformation(init, update)


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """What `clean` did.

    Attributes:
      kept: bool [n], the examples that are left in the round with the lowest value.
      dropped: int, the others, in the order in which they went.
      scores: [n], d outer / d weight of each example, in the last round that it took part in.
        Positive is harmful.
      descent: the descent on the weights, whose history begins with the value of all examples.
    """

    kept: np.ndarray
    dropped: np.ndarray
    scores: np.ndarray
    descent: DescentResult

    def __repr__(self) -> str:
        return (
            f"<Cleaning: {int(self.kept.sum())} of {len(self.kept)} examples kept, "
            f"{len(self.descent.history)} rounds>"
        )


def clean(
    mg: Callable[..., Any],
    examples: int,
    problem: Callable[..., tuple],
    *,
    drop: int,
    rounds: int = 10,
    patience: int | None = 2,
    **options: Any,
) -> Cleaning:
    """Drops the most harmful training examples, round by round, while the outer value falls.

    Each round trains with the examples that are left, and takes one metagradient of all weights.
    The first has all examples.

    Args:
      mg: `train_step.metagradient(outer)`, whose metaparameters are weights [n], one for each
        training example: the step reads `weights[i]` for the examples i of its batch. (If the step
        has more metaparameters, close over them.) The outer value is a loss on held-out data whose
        labels can be trusted.
      examples: n.
      problem: `problem(round, key) -> (state0, batches, *outer_args)`, as of `metagrad.descent`.
      drop: how many examples go in a round, at most.
      rounds: how many, at most. The first measures all examples; what the last drops is not
        measured.
      patience: rounds without a lower value after which it ends; None: all rounds are made.
      **options: of `metagrad.descent`: `seeds` (runs that are averaged: scores of a single run
        depend on its order), `key`, `progress`, `callback`, `resume_dir`, ...

    Returns:
      A `Cleaning`.

    Raises:
      ValueError: `drop` or `examples` is less than 1.
      Exception: as `metagrad.descent`.
    """
    if operator.index(examples) < 1:
        raise ValueError(f"examples={examples} must be at least 1")
    result = descent(
        mg,
        jnp.ones(examples),
        problem,
        drop_most_harmful(drop),
        rounds=rounds,
        patience=patience,
        **options,
    )
    best: Any = result.best
    kept = np.ones(examples, bool) if best is None else np.asarray(best.meta) > 0
    state: DropState = result.optimizer_state
    scores, dropped_in = np.asarray(state.scores), np.asarray(state.dropped_in)
    order = np.lexsort((-scores, dropped_in))
    return Cleaning(kept, order[~kept[order]], scores, result)
