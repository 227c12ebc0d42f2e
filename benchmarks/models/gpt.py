"""A GPT with four layers of width 128 and four heads.

The vocabulary has 64 tokens, and batches are four sequences of 64 tokens.
`python -m benchmarks.compile_scaling` compiles it with more layers, unrolled as here or in one
`lax.scan` over stacked parameters.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.models.data import Draw
from benchmarks.models.layers import dense, layer_norm, transformer_block
from benchmarks.models.model import Model
from benchmarks.models.training import weighted_run

LAYERS, WIDTH, HEADS, VOCABULARY = 4, 128, 4, 64
BATCH, TOKENS = 4, 64
EXAMPLES = 256


def logits(params, tokens, narrow=None):
    length = tokens.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    x = params["embedding"][tokens] + params["position"][:length]
    layers = params["layers"]
    if isinstance(layers, list):
        for layer in layers:
            x = transformer_block(x, layer, HEADS, causal, narrow)
    else:
        body = lambda x, layer: (transformer_block(x, layer, HEADS, causal, narrow), None)
        x, _ = jax.lax.scan(body, x, layers)
    return dense(layer_norm(x, params["last"]), params["embedding"].T, narrow)


def losses(params, tokens, narrow=None):
    """[batch]; cross entropy of each next token, averaged over a sequence."""
    return jnp.mean(
        optax.softmax_cross_entropy_with_integer_labels(
            logits(params, tokens[:, :-1], narrow), tokens[:, 1:]
        ),
        -1,
    )


def model(layers: int = LAYERS, scanned: bool = False, narrow: Any = None) -> Model:
    """The model; with `scanned`, one `lax.scan` runs the layers over stacked parameters.

    `narrow` is the dtype that products are taken in, f32 if None.
    """
    draw = Draw()
    blocks = [draw.block(WIDTH) for _ in range(layers)]
    params = {
        "embedding": draw.normal(VOCABULARY, WIDTH, scale=0.02),
        "position": draw.normal(TOKENS, WIDTH, scale=0.02),
        "layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks) if scanned else blocks,
        "last": draw.unit(WIDTH),
    }
    description = (
        f"GPT, {layers} layers{' in a scan' if scanned else ''} of width {WIDTH}, {HEADS} heads, "
        f"vocabulary {VOCABULARY}, {BATCH} x {TOKENS} tokens"
    )
    return weighted_run(
        "gpt",
        description,
        params,
        functools.partial(losses, narrow=narrow),
        *draw.text(VOCABULARY, TOKENS, EXAMPLES, 2 * BATCH),
        BATCH,
    )
