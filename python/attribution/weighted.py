"""A training run with weights, for those whose step has none."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.api.grad import grad
from metagrad.api.metagradient import Metagradient
from metagrad.api.train_step import TrainStep, compile


class TrainingState(NamedTuple):
    """The state of a `WeightedTraining`: parameters, and what the optimiser carries."""

    params: Any
    optimizer: Any


@dataclasses.dataclass(frozen=True)
class WeightedTraining:
    """Training on the weighted mean of the losses of a batch's examples, or tokens.

    A step minimises mean(weight[i] * losses(params, examples[i])) over the B examples i of its
    batch, and over their tokens. The denominator does not change with the weights: an example of
    weight 0 takes part in no step, and the others keep their share.

    Attributes:
      losses: `losses(params, examples) -> [B]`, or [B, L] for weights of tokens. A loss may depend
        on its own example only.
      optimizer: an optax transformation. Adam and its relatives need eps_root.

    >>> import jax, jax.numpy as jnp, metagrad, optax
    >>> from metagrad import attribution
    >>> losses = lambda w, examples: (examples["x"] @ w - examples["y"]) ** 2
    >>> training = attribution.WeightedTraining(losses, optax.sgd(0.1))
    >>> x = jax.random.normal(jax.random.key(0), (32, 3))
    >>> examples = {"x": x, "y": x[:, 0]}
    >>> order = jnp.arange(160).reshape(20, 8) % 32  # 20 steps, batches of 8
    >>> mg = training.metagradient(lambda w, held_out: losses(w, held_out).mean())
    >>> arguments = *training.arguments(jnp.zeros(3), examples, order), examples
    >>> attribution.scores(mg, *arguments)
    Scores(metagradient, 1 queries, 32 examples)
    """

    losses: Callable[[Any, Any], jax.Array]
    optimizer: Any

    @functools.cached_property
    def step(self) -> TrainStep:
        """The step: its meta is {"weight": [n] or [n, L]}, and its state a `TrainingState`."""

        def loss(params, weight, batch):
            return jnp.mean(weight[batch["index"]] * self.losses(params, batch["examples"]))

        def weighted_step(state, meta, batch):
            gradient = grad(loss)(state.params, meta["weight"], batch)
            updates, optimizer = self.optimizer.update(gradient, state.optimizer, state.params)
            params = jax.tree.map(lambda p, u: (p + u).astype(p.dtype), state.params, updates)
            return TrainingState(params, optimizer)

        return compile(weighted_step)

    def arguments(self, params: Any, examples: Any, order: Any) -> tuple[TrainingState, dict, dict]:
        """(state0, meta, batches) of a run.

        Args:
          params: to start from.
          examples: a pytree of arrays with a leading axis of length n.
          order: integers [T, B], the examples of each step's batch.

        Raises:
          ValueError: order has another shape or names examples that are not there, or `losses` does
            not return one row for each example.
        """
        order = np.asarray(order)
        n = len(jax.tree.leaves(examples)[0])
        if order.ndim != 2 or not order.size or not np.issubdtype(order.dtype, np.integer):
            raise ValueError(
                f"order is {order.dtype}{list(order.shape)}; it must be integers [T, B]: the "
                "examples of each step's batch"
            )
        if order.min() < 0 or order.max() >= n:
            raise ValueError(f"order names examples from {order.min()} to {order.max()} of n={n}")
        losses = jax.eval_shape(self.losses, params, examples)
        if not losses.shape or losses.shape[0] != n:
            raise ValueError(
                f"losses returns the shape {losses.shape} for {n} examples; it must be [{n}], or "
                f"[{n}, L] for tokens"
            )
        batches = {"examples": jax.tree.map(lambda x: jnp.asarray(x)[order], examples)}
        meta = {"weight": jnp.ones(losses.shape, losses.dtype)}
        state = TrainingState(params, self.optimizer.init(params))
        return state, meta, batches | {"index": jnp.asarray(order, jnp.int32)}

    def metagradient(self, outcome: Callable, **options: Any) -> Metagradient:
        """The metagradient of an outcome of the final parameters.

        Args:
          outcome: `outcome(params, *outer_args)`, a scalar, or a vector of Q queries.
          options: of `TrainStep.metagradient`: schedule, runtime, ...
        """

        @functools.wraps(outcome)
        def outer(state, *outer_args):
            return outcome(state.params, *outer_args)

        return self.step.metagradient(outer, **options)

    def train(
        self, state0: TrainingState, meta: dict, batches: dict, checkpoints: int = 1
    ) -> tuple[TrainingState, Any]:
        """Plain training, without a metagradient; and parameters on the way, for `tracin`.

        Args:
          state0, meta, batches: from `arguments`.
          checkpoints: how many parameters are kept, evenly over the run, the last of all among
            them. It divides T.

        Returns:
          (the final state, the parameters with a leading axis of length `checkpoints`).

        Raises:
          ValueError: `checkpoints` does not divide T.
        """
        steps = len(batches["index"])
        if checkpoints < 1 or steps % checkpoints:
            raise ValueError(f"checkpoints={checkpoints!r} does not divide the {steps} steps")
        parts = jax.tree.map(lambda x: x.reshape(checkpoints, -1, *x.shape[1:]), batches)
        return _train(self.step, state0, meta, parts)


@functools.partial(jax.jit, static_argnums=0)
def _train(step: Callable, state0: Any, meta: Any, parts: Any) -> tuple[Any, Any]:
    def part(state, batches):
        state, _ = jax.lax.scan(lambda s, batch: (step(s, meta, batch), None), state, batches)
        return state, state.params

    return jax.lax.scan(part, state0, parts)
