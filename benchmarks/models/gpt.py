"""A GPT with four layers of width 128 and four heads.

The vocabulary has 64 tokens, and batches are four sequences of 64 tokens.
`python -m benchmarks.compile_scaling` compiles it with more layers, unrolled as here or in one
`lax.scan` over stacked parameters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
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


def logits(params, tokens, narrow=None, around=None, group=1):
    length = tokens.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    x = params["embedding"][tokens] + params["position"][:length]
    layers = params["layers"]

    def one(x, layer):
        return transformer_block(x, layer, HEADS, causal, narrow)

    def several(x, group):
        return functools.reduce(one, group, x)

    if isinstance(layers, list):
        groups = [layers[i : i + group] for i in range(0, len(layers), group)]
        x = functools.reduce((around or (lambda f: f))(several), groups, x)
    else:
        body = one if around is None else around(one)
        x, _ = jax.lax.scan(lambda x, layer: (body(x, layer), None), x, layers)
    return dense(layer_norm(x, params["last"]), params["embedding"].T, narrow)


def losses(params, tokens, **options):
    """[batch]; cross entropy of each next token, averaged over a sequence.

    `options` are those of `model`.
    """
    return jnp.mean(
        optax.softmax_cross_entropy_with_integer_labels(
            logits(params, tokens[:, :-1], **options), tokens[:, 1:]
        ),
        -1,
    )


def model(
    layers: int = LAYERS,
    scanned: bool = False,
    narrow: Any = None,
    around: Callable | None = None,
    group: int = 1,
    tokens: int = TOKENS,
) -> Model:
    """The model.

    Args:
      layers: how many.
      scanned: whether one `lax.scan` runs the layers over stacked parameters.
      narrow: the dtype that products are taken in, f32 if None.
      around: what is put around a layer: `jax.checkpoint`, say.
      group: how many layers it is put around together, if they are not scanned.
      tokens: the length of a sequence.
    """
    draw = Draw()
    blocks = [draw.block(WIDTH) for _ in range(layers)]
    params = {
        "embedding": draw.normal(VOCABULARY, WIDTH, scale=0.02),
        "position": draw.normal(tokens, WIDTH, scale=0.02),
        "layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks) if scanned else blocks,
        "last": draw.unit(WIDTH),
    }
    description = (
        f"GPT, {layers} layers{' in a scan' if scanned else ''} of width {WIDTH}, {HEADS} heads, "
        f"vocabulary {VOCABULARY}, {BATCH} x {tokens} tokens"
    )
    return weighted_run(
        "gpt",
        description,
        params,
        functools.partial(losses, narrow=narrow, around=around, group=group),
        *draw.text(VOCABULARY, tokens, EXAMPLES, 2 * BATCH),
        BATCH,
    )
