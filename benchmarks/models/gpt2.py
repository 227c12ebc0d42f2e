"""GPT-2 of 124M parameters: 12 layers of width 768, 12 heads, vocabulary 50257, tied embedding.

Batches are 64 sequences of 128 tokens, the optimiser is AdamW, the layers are one `lax.scan` over
stacked parameters. As in nanoGPT there are no biases beside those of the normalisations.

`model` makes no array: all are shapes and dtypes, which is what a compiler needs. `drawn` gives it
numbers, on the default device.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.models.layers import dense, layer_norm, transformer_block
from benchmarks.models.model import Model
from benchmarks.models.training import weighted_step


class Size(NamedTuple):
    """How large the model and its batches are."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    vocabulary: int = 50257
    positions: int = 1024
    batch: int = 64
    tokens: int = 128
    examples: int = 8192
    sequences: int = 8
    """How many have their logits at a time: for all 64 they take 1.6 GB, several times over."""


GPT2 = Size()
SMALL = Size(2, 32, 2, 61, 32, 2, 16, 32, 1)
"""For tests."""

# b2 is a number that f32 holds exactly; model.py says why, and why there is an eps_root.
OPTIMISER = optax.adamw(6e-4, b1=0.9, b2=1 - 2**-5, eps_root=1e-8, weight_decay=0.1)


def initial(key, size: Size = GPT2) -> Any:
    """The parameters before training, f32. Called under `jax.eval_shape` it makes no array."""
    keys = iter(jax.random.split(key, 6))
    layers, width = size.layers, size.width
    normal = lambda *shape: 0.02 * jax.random.normal(next(keys), shape, jnp.float32)
    unit = lambda *axes: {
        "scale": jnp.ones((*axes, width), jnp.float32),
        "shift": jnp.zeros((*axes, width), jnp.float32),
    }
    return {
        "embedding": normal(size.vocabulary, width),
        "position": normal(size.positions, width),
        "layers": {
            "before_attention": unit(layers),
            "qkv": normal(layers, width, 3 * width),
            "out": normal(layers, width, width),
            "before_mlp": unit(layers),
            "up": normal(layers, width, 4 * width),
            "down": normal(layers, 4 * width, width),
        },
        "last": unit(),
    }


def losses(
    params,
    tokens,
    *,
    heads: int,
    sequences: int,
    narrow: Any = None,
    remat: bool = True,
    remat_logits: bool | None = None,
    attention: Callable | None = None,
):
    """[batch]; cross entropy of each next token, averaged over a sequence.

    Args:
      tokens: int32[batch, length + 1].
      sequences: how many of the batch have their logits at a time. It divides the batch.
      narrow: the dtype that products are taken in, f32 if None.
      remat: each layer is in a `jax.checkpoint`, as in training of this size.
      remat_logits: each part of the logits is in one. None: if the layers are.
      attention: takes the place of plain softmax attention (layers.py).
    """
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    length = inputs.shape[1]
    causal = None if attention else jnp.tril(jnp.ones((length, length), bool))
    layer_of = lambda x, layer: transformer_block(x, layer, heads, causal, narrow, attention)
    if remat:
        # Inside a scan the layer and its repetition are in different loops (checkpointed.py).
        layer_of = jax.checkpoint(layer_of, prevent_cse=False)
    x = params["embedding"][inputs] + params["position"][:length]
    x, _ = jax.lax.scan(lambda x, layer: (layer_of(x, layer), None), x, params["layers"])

    def of_sequences(x, targets):
        logits = dense(layer_norm(x, params["last"]), params["embedding"].T, narrow)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, targets), -1)

    if remat if remat_logits is None else remat_logits:
        of_sequences = jax.checkpoint(of_sequences, prevent_cse=False)
    parts = jax.tree.map(lambda leaf: leaf.reshape(-1, sequences, *leaf.shape[1:]), (x, targets))
    _, of_parts = jax.lax.scan(lambda _, part: (None, of_sequences(*part)), None, parts)
    return of_parts.reshape(-1)


def model(narrow: Any = None, size: Size = GPT2, remat: bool = True) -> Model:
    """The model, of shapes. `narrow` and `remat` are as of `losses`."""
    shape = jax.ShapeDtypeStruct
    text = lambda *axes: shape((*axes, size.tokens + 1), np.int32)
    params = jax.eval_shape(lambda: initial(jax.random.key(0), size))
    make_step, outer = weighted_step(
        functools.partial(
            losses, heads=size.heads, sequences=size.sequences, narrow=narrow, remat=remat
        ),
        OPTIMISER,
    )
    return Model(
        name="gpt2",
        description=f"GPT-2, {size.layers} layers in a scan of width {size.width}, "
        f"{size.heads} heads, vocabulary {size.vocabulary}, {size.batch} x {size.tokens} tokens",
        state0=(params, jax.eval_shape(OPTIMISER.init, params)),
        meta=shape((size.examples,), np.float32),
        draw_batches=lambda steps: (
            text(steps, size.batch),
            shape((steps, size.batch), np.int32),
        ),
        held_out=text(size.batch),
        make_step=make_step,
        outer=outer,
    )


def drawn(narrow: Any = None, size: Size = GPT2, remat: bool = True) -> Model:
    """The same with numbers from fixed seeds. A token's successor is one of a few."""

    def state0():
        params = initial(jax.random.key(0), size)
        return params, OPTIMISER.init(params)

    def text(count: int, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        tokens = np.empty((count, size.tokens + 1), np.int32)
        tokens[:, 0] = rng.integers(0, size.vocabulary, count)
        for i in range(size.tokens):
            tokens[:, i + 1] = (7 * tokens[:, i] + rng.integers(1, 4, count)) % size.vocabulary
        return tokens

    examples = text(size.examples, 0)

    def draw_batches(steps: int):
        index = np.random.default_rng(1).integers(0, size.examples, (steps, size.batch), np.int32)
        return examples[index], index

    return dataclasses.replace(
        model(narrow, size, remat),
        state0=jax.jit(state0)(),
        meta=np.ones(size.examples, np.float32),
        draw_batches=draw_batches,
        held_out=text(size.batch, 2),
    )
