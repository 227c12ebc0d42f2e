"""A transformer and an MLP without a library, small, with matrices of several shapes.

No parameter is without effect (there is no bias of keys): optimisers that bring every update to one
size can be compared on all of them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

VOCABULARY, LENGTH, WIDTH, HEADS, EXAMPLES = 7, 5, 8, 2, 3


class Network(NamedTuple):
    """What is trained.

    Attributes:
      params: the initial parameters, float64.
      losses: `losses(params, batch)`, one for each example.
      batches: `batches(steps)`, with a leading axis of length `steps`.
    """

    params: Any
    losses: Callable
    batches: Callable


def _kernels(**shapes):
    random = np.random.default_rng(0)
    return {
        name: jnp.asarray(random.normal(size=shape) / shape[0] ** 0.5)
        for name, shape in shapes.items()
    }


def _normal(x):
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-5)


def _attend(x):
    n, length, _ = x.shape
    query, key, value = (part.reshape(n, length, HEADS, -1) for part in jnp.split(x, 3, -1))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / (WIDTH / HEADS) ** 0.5
    scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -1e9)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, -1), value)
    return mixed.reshape(n, length, WIDTH)


def _next_token(params, tokens):
    x = params["embedding"][tokens[:, :-1]] + params["position"]
    x = x + _attend(_normal(x) @ params["qkv"]) @ params["out"]
    x = x + jax.nn.gelu(_normal(x) @ params["up"]) @ params["down"]
    logits = _normal(x) @ params["head"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean(-1)


def transformer():
    params = _kernels(
        embedding=(VOCABULARY, WIDTH),
        position=(LENGTH, WIDTH),
        qkv=(WIDTH, 3 * WIDTH),
        out=(WIDTH, WIDTH),
        up=(WIDTH, 2 * WIDTH),
        down=(2 * WIDTH, WIDTH),
        head=(WIDTH, VOCABULARY),
    )
    draw = lambda steps: jnp.asarray(
        np.random.default_rng(1).integers(0, VOCABULARY, (steps, EXAMPLES, LENGTH + 1))
    )
    return Network(params, _next_token, draw)


def _squared_error(params, batch):
    x = jnp.tanh(batch[..., :4] @ params["w1"] + params["b1"])
    return ((x @ params["w2"] - batch[..., 4:]) ** 2).mean(-1)


def mlp():
    params = _kernels(w1=(4, 6), b1=(6,), w2=(6, 3))
    draw = lambda steps: jnp.asarray(np.random.default_rng(1).normal(size=(steps, EXAMPLES, 7)))
    return Network(params, _squared_error, draw)
