"""A GPT with four layers of width 128 and four heads, vocabulary 64, batches of four sequences of 64 tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.models.model import OPTIMISER, Model

LAYERS, WIDTH, HEADS, VOCABULARY = 4, 128, 4, 64
BATCH, TOKENS = 4, 64
EXAMPLES = 256


def normalise(x, layer):
    mean = jnp.mean(x, -1, keepdims=True)
    variance = jnp.mean((x - mean) ** 2, -1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * layer["scale"] + layer["shift"]


def attend(x, layer):
    batch, length, width = x.shape
    heads = lambda a: a.reshape(batch, length, HEADS, width // HEADS)
    query, key, value = (heads(part) for part in jnp.split(x @ layer["qkv"], 3, -1))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(width // HEADS)
    causal = jnp.tril(jnp.ones((length, length), bool))
    attention = jax.nn.softmax(jnp.where(causal, scores, -1e9), -1)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", attention, value)
    return mixed.reshape(batch, length, width) @ layer["out"]


def logits(params, tokens):
    x = params["embedding"][tokens] + params["position"][: tokens.shape[1]]
    for layer in params["layers"]:
        x = x + attend(normalise(x, layer["before_attention"]), layer)
        x = x + jax.nn.gelu(normalise(x, layer["before_mlp"]) @ layer["up"]) @ layer["down"]
    return normalise(x, params["last"]) @ params["embedding"].T


def sequence_losses(params, tokens):
    """[batch]; cross entropy of each next token, averaged over a sequence."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits(params, tokens[:, :-1]), tokens[:, 1:])
    return jnp.mean(losses, -1)


def loss(params, weights, batch):
    tokens, index = batch
    return jnp.mean(weights[index] * sequence_losses(params, tokens))


def make_step(autodiff):
    def step(state, weights, batch):
        params, optimiser = state
        gradient = autodiff.grad(loss)(params, weights, batch)
        updates, optimiser = OPTIMISER.update(gradient, optimiser, params)
        return optax.apply_updates(params, updates), optimiser

    return step


def outer(state, held_out):
    params, _ = state
    return jnp.mean(sequence_losses(params, held_out))


def model() -> Model:
    rng = np.random.default_rng(0)
    normal = lambda *shape: np.float32(0.02) * rng.standard_normal(shape, np.float32)
    unit = lambda: {"scale": np.ones(WIDTH, np.float32), "shift": np.zeros(WIDTH, np.float32)}
    params = {
        "embedding": normal(VOCABULARY, WIDTH),
        "position": normal(TOKENS, WIDTH),
        "layers": [
            {
                "before_attention": unit(),
                "qkv": normal(WIDTH, 3 * WIDTH),
                "out": normal(WIDTH, WIDTH),
                "before_mlp": unit(),
                "up": normal(WIDTH, 4 * WIDTH),
                "down": normal(4 * WIDTH, WIDTH),
            }
            for _ in range(LAYERS)
        ],
        "last": unit(),
    }

    # Text of a Markov chain: every token has a few likely successors.
    transitions = rng.dirichlet(np.full(VOCABULARY, 0.1), VOCABULARY).cumsum(-1)

    def write(count):
        text = np.empty((count, TOKENS + 1), np.int32)
        text[:, 0] = rng.integers(0, VOCABULARY, count)
        for position in range(TOKENS):
            draws = rng.random((count, 1))
            # A row's cumulated sum may end a rounding error below one.
            text[:, position + 1] = np.minimum((transitions[text[:, position]] < draws).sum(-1), VOCABULARY - 1)
        return text

    tokens, held_out = write(EXAMPLES), write(2 * BATCH)

    def draw_batches(steps):
        index = np.random.default_rng(1).integers(0, EXAMPLES, (steps, BATCH), np.int32)
        return tokens[index], index

    return Model(
        name="gpt",
        description=f"GPT, {LAYERS} layers of width {WIDTH}, {HEADS} heads, vocabulary {VOCABULARY}, {BATCH} x {TOKENS} tokens",
        state0=jax.tree.map(np.asarray, (params, OPTIMISER.init(params))),
        meta=np.ones(EXAMPLES, np.float32),
        draw_batches=draw_batches,
        held_out=held_out,
        make_step=make_step,
        outer=outer,
    )
