"""The three tasks of MixFlow-MG (Kemaev et al. 2025, arXiv 2505.00793), each in one definition.

    rates      a learning rate for every entry of a transformer's parameters, trained with Adam
    maml       the initial parameters, of a batch of tasks, through the inner Adam steps
    weighting  a network that scores the sequences of a batch; the inner loss weights them with the
               softmax of the scores; several inner models train in parallel on one network's scores

The inner loss is the mean cross entropy of the next token, the outer function is the same on
held-out text. A task does not know who differentiates it: its step is built from an `autodiff`, as
every model's of the benchmarks (models/model.py). The state is (parameters, Adam's moments).

`task(...)` makes no array: all are shapes. `drawn(task)` gives it numbers, from fixed seeds.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.mixflow.sizes import PLAIN_ATTENTION_UP_TO, size
from benchmarks.models import gpt2
from benchmarks.models.gpt2 import Size
from benchmarks.models.model import Autodiff, Model

POPULATION = 2
"""Inner models of `weighting`, and tasks of `maml`."""

SCORER_WIDTH = 32

RATE = 1e-3

# model.py says why b2 is not 0.999, and why there is an eps_root.
ADAM = optax.scale_by_adam(b2=1 - 2**-10, eps_root=1e-8)


@dataclasses.dataclass(frozen=True)
class Task(Model):
    """A training run and its question, as shapes.

    Attributes:
      size: of the transformer and its batches.
      blocks: whether the layers are in a `jax.checkpoint` each.
      with_blocks: `with_blocks(blocks)` is the same task with or without.
      numbers: `numbers(steps)` is (state0, meta, batches, held_out), traceable; arrays when called.
    """

    size: Size = gpt2.SMALL
    blocks: bool = False
    with_blocks: Callable[[bool], Task] = None  # type: ignore[assignment]
    numbers: Callable[[int], tuple] = None  # type: ignore[assignment]


def task(
    name: str,
    transformer: str,
    context: int,
    batch: int,
    *,
    blocks: bool = False,
    narrow: Any = None,
) -> Task:
    """The task of a name, of shapes.

    Args:
      name: of `TASKS`.
      transformer: a name of `sizes.TRANSFORMERS`.
      context: tokens of a sequence.
      batch: sequences of a batch; each inner model has one.
      blocks: whether each layer is in a `jax.checkpoint`, as by hand for a model of some size.
      narrow: the dtype that products are taken in, f32 if None.
    """
    of_size = size(transformer, context, batch)
    losses = functools.partial(
        gpt2.losses,
        heads=of_size.heads,
        sequences=of_size.sequences,
        narrow=narrow,
        remat=blocks,
        # Logits of a large vocabulary are computed again by everybody.
        remat_logits=of_size.vocabulary > 1024,
        attention=_blockwise if context > PLAIN_ATTENTION_UP_TO else None,
    )
    made = TASKS[name](of_size, losses)
    state0, meta, _, held_out = jax.eval_shape(lambda: made["numbers"](1))
    return Task(
        name=name,
        description=f"{name}: transformer of {transformer} parameters, {batch} x {context} tokens",
        state0=state0,
        meta=meta,
        draw_batches=lambda steps: jax.eval_shape(lambda: made["numbers"](steps))[2],
        held_out=held_out,
        size=of_size,
        blocks=blocks,
        with_blocks=lambda blocks: task(
            name, transformer, context, batch, blocks=blocks, narrow=narrow
        ),
        **made,
    )


def drawn(of: Task, steps: int) -> tuple:
    """(state0, meta, batches, held_out) as arrays on the default device; floats are f32."""
    return jax.jit(lambda: of.numbers(steps))()


def learning_rates(of_size: Size, losses: Callable) -> dict[str, Any]:
    """`meta` has the structure of the parameters: a learning rate for each of their entries."""

    def loss(params, tokens):
        return jnp.mean(losses(params, tokens))

    def make_step(autodiff: Autodiff):
        def step(state, rates, tokens):
            params, moments = state
            gradient = autodiff.grad(loss)(params, tokens)
            direction, moments = ADAM.update(gradient, moments)
            return jax.tree.map(lambda p, r, d: p - r * d, params, rates, direction), moments

        return step

    def numbers(steps: int) -> tuple:
        params = gpt2.initial(jax.random.key(0), of_size)
        rates = jax.tree.map(lambda leaf: jnp.full_like(leaf, RATE), params)
        batches = text(1, of_size, (steps, of_size.batch))
        return (params, ADAM.init(params)), rates, batches, text(2, of_size, (of_size.batch,))

    return {
        "make_step": make_step,
        "outer": lambda state, tokens: loss(state[0], tokens),
        "numbers": numbers,
    }


def maml(of_size: Size, losses: Callable) -> dict[str, Any]:
    """The leaves of state and batches have an axis over the tasks in front.

    All tasks start from the same parameters, whose gradient is the sum of the tasks' gradients over
    that axis. `meta` is the learning rate, and has no gradient.
    """

    def loss(params, tokens):
        return jnp.mean(losses(params, tokens))

    def make_step(autodiff: Autodiff):
        def step(state, rate, tokens):
            params, moments = state
            gradient = jax.vmap(autodiff.grad(loss))(params, tokens)
            direction, moments = ADAM.update(gradient, moments)
            return jax.tree.map(lambda p, d: p - rate * d, params, direction), moments

        return step

    def numbers(steps: int) -> tuple:
        params = gpt2.initial(jax.random.key(0), of_size)
        params = jax.tree.map(lambda leaf: jnp.stack([leaf] * POPULATION), params)
        support = text(1, of_size, (steps, POPULATION, of_size.batch))
        query = text(2, of_size, (POPULATION, of_size.batch))
        return (params, ADAM.init(params)), jnp.float32(RATE), support, query

    return {
        "make_step": make_step,
        "outer": lambda state, tokens: jnp.mean(jax.vmap(loss)(state[0], tokens)),
        "numbers": numbers,
        "wrt": "state",
    }


def weighting(of_size: Size, losses: Callable) -> dict[str, Any]:
    """`meta` has the parameters of the network that scores; DataRater's question.

    After Calian et al. 2025, "DataRater: Meta-Learned Dataset Curation" (arXiv 2505.17895). The
    leaves of state and batches have an axis over the inner models in front. The scores do not
    depend on the inner models, so the network stands outside of the inner gradient.
    """

    def weighted(params, weights, tokens):
        return jnp.sum(weights * losses(params, tokens))

    def make_step(autodiff: Autodiff):
        def step(state, network, tokens):
            params, moments = state
            weights = jax.nn.softmax(scores(network, tokens), -1)
            gradient = jax.vmap(autodiff.grad(weighted))(params, weights, tokens)
            direction, moments = ADAM.update(gradient, moments)
            return jax.tree.map(lambda p, d: p - RATE * d, params, direction), moments

        return step

    def numbers(steps: int) -> tuple:
        keys = jax.random.split(jax.random.key(0), POPULATION)
        params = jax.vmap(lambda key: gpt2.initial(key, of_size))(keys)
        batches = text(1, of_size, (steps, POPULATION, of_size.batch))
        held_out = text(2, of_size, (of_size.batch,))
        network = scorer(jax.random.key(3), of_size)
        return (params, ADAM.init(params)), network, batches, held_out

    def outer(state, tokens):
        return jnp.mean(jax.vmap(losses, in_axes=(0, None))(state[0], tokens))

    return {"make_step": make_step, "outer": outer, "numbers": numbers}


TASKS = {"rates": learning_rates, "maml": maml, "weighting": weighting}


def scorer(key: jax.Array, of_size: Size) -> dict[str, jax.Array]:
    """The network that scores: an embedding, its mean over the sequence, one hidden layer."""
    keys = jax.random.split(key, 3)
    normal = lambda key, rows, columns: (
        jax.random.normal(key, (rows, columns), jnp.float32) / jnp.sqrt(jnp.float32(rows))
    )
    return {
        "embedding": normal(keys[0], of_size.vocabulary, SCORER_WIDTH),
        "hidden": normal(keys[1], SCORER_WIDTH, SCORER_WIDTH),
        "out": normal(keys[2], SCORER_WIDTH, 1),
    }


def scores(network: dict[str, jax.Array], tokens: jax.Array) -> jax.Array:
    """[...]: a score for each sequence of int32[..., length + 1]."""
    features = jnp.mean(network["embedding"][tokens], -2)
    return (jnp.tanh(features @ network["hidden"]) @ network["out"])[..., 0]


def text(seed: int, of_size: Size, shape: tuple[int, ...]) -> jax.Array:
    """int32[*shape, tokens + 1]: a token's successor is one of four."""
    first, later = jax.random.split(jax.random.key(seed))
    start = jax.random.randint(first, shape, 0, of_size.vocabulary, jnp.int32)
    noise = jax.random.randint(later, (of_size.tokens, *shape), 0, 4, jnp.int32)

    def follow(token, noise):
        token = (7 * token + noise) % of_size.vocabulary
        return token, token

    _, rest = jax.lax.scan(follow, start, noise)
    return jnp.moveaxis(jnp.concatenate([start[None], rest]), 0, -1)


def _blockwise(query, key, value):
    import metagrad

    return metagrad.dot_product_attention(query, key, value, is_causal=True)
