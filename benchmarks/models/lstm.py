"""A language model of one LSTM layer of width 128 under `lax.scan`.

The vocabulary has 64 tokens, and batches are 16 sequences of 32 tokens.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.models.data import Draw
from benchmarks.models.model import Model
from benchmarks.models.training import weighted_run

WIDTH, VOCABULARY = 128, 64
BATCH, TOKENS = 16, 32
EXAMPLES = 512


def logits(params, tokens):
    """[batch, tokens, vocabulary]"""

    def cell(carry, x):
        hidden, memory = carry
        pre = x @ params["input"] + hidden @ params["recurrent"] + params["bias"]
        enter, forget, candidate, leave = jnp.split(pre, 4, -1)
        memory = jax.nn.sigmoid(forget + 1) * memory + jax.nn.sigmoid(enter) * jnp.tanh(candidate)
        hidden = jax.nn.sigmoid(leave) * jnp.tanh(memory)
        return (hidden, memory), hidden

    embedded = params["embedding"][tokens].swapaxes(0, 1)
    start = jnp.zeros((len(tokens), WIDTH), embedded.dtype)
    _, hidden = jax.lax.scan(cell, (start, start), embedded)
    return hidden.swapaxes(0, 1) @ params["head"]["w"] + params["head"]["b"]


def losses(params, tokens):
    """[batch]; cross entropy of each next token, averaged over a sequence."""
    return jnp.mean(
        optax.softmax_cross_entropy_with_integer_labels(
            logits(params, tokens[:, :-1]), tokens[:, 1:]
        ),
        -1,
    )


def model() -> Model:
    draw = Draw()
    params = {
        "embedding": draw.normal(VOCABULARY, WIDTH),
        "input": draw.matrix(WIDTH, 4 * WIDTH),
        "recurrent": draw.matrix(WIDTH, 4 * WIDTH),
        "bias": np.zeros(4 * WIDTH, np.float32),
        "head": {"w": draw.matrix(WIDTH, VOCABULARY), "b": np.zeros(VOCABULARY, np.float32)},
    }
    description = f"LSTM of width {WIDTH}, vocabulary {VOCABULARY}, {BATCH} x {TOKENS} tokens"
    return weighted_run(
        "lstm",
        description,
        params,
        losses,
        *draw.text(VOCABULARY, TOKENS, EXAMPLES, 4 * BATCH),
        BATCH,
    )
