"""Attention written out, and the ways in which it is asked for."""

import jax
import jax.numpy as jnp
import numpy as np

B, T, S, N, K, H = 2, 13, 17, 4, 2, 3
MASKED = -0.7 * float(np.finfo(np.float32).max)


def reference(
    query,
    key,
    value,
    bias=None,
    mask=None,
    *,
    scale=None,
    is_causal=False,
    query_seq_lengths=None,
    key_value_seq_lengths=None,
    local_window_size=None,
):
    """`jax.nn.dot_product_attention`, whose softmax is in f32 whatever the inputs are, in the
    inputs' own dtype.
    """
    queries, keys, heads = query.shape[1], key.shape[1], query.shape[2]
    key, value = (jnp.repeat(x, heads // key.shape[2], axis=2) for x in (key, value))
    scale = 1 / np.sqrt(query.shape[-1]) if scale is None else scale
    scores = scale * jnp.einsum("btnh,bsnh->bnts", query, key)
    scores = scores if bias is None else scores + bias
    rows, columns = jnp.arange(queries)[:, None], jnp.arange(keys)
    is_kept = jnp.ones(scores.shape, bool) if mask is None else mask
    if is_causal:
        is_kept &= columns <= rows
    if local_window_size is not None:
        left, right = local_window_size
        is_kept &= (columns >= rows - left) & (columns <= rows + right)
    if query_seq_lengths is not None:
        is_kept &= rows < query_seq_lengths[:, None, None, None]
    if key_value_seq_lengths is not None:
        is_kept &= columns < key_value_seq_lengths[:, None, None, None]
    weights = jax.nn.softmax(jnp.where(is_kept, scores, MASKED), axis=-1)
    out = jnp.einsum("bnts,bsnh->btnh", weights, value)
    if query_seq_lengths is not None:
        out *= (jnp.arange(queries) < query_seq_lengths[:, None])[:, :, None, None]
    return out


def arrays(queries=T, keys=S, heads=N, key_heads=K, dtype=None, seed=0):
    """query, key, value."""
    random = np.random.default_rng(seed)
    shapes = (B, queries, heads, H), (B, keys, key_heads, H), (B, keys, key_heads, H)
    return tuple(jnp.asarray(random.normal(size=shape), dtype or float) for shape in shapes)


def bias(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def mask(*shape, seed=2):
    """Some of it is False, and all of the last row."""
    drawn = np.random.default_rng(seed).random(shape) < 0.6
    drawn[..., -1, :] = False
    return jnp.asarray(drawn)


def minus_infinity():
    """A bias that takes away single entries, and for the first queries the whole first block."""
    random = np.random.default_rng(3)
    values = random.normal(size=(1, N, T, S))
    values[random.random(values.shape) < 0.3] = -np.inf
    values[:, :, :4, :7] = -np.inf
    values[..., -1] = 0.5
    return jnp.asarray(values)


LENGTHS = {
    "query_seq_lengths": jnp.asarray([5, 13], jnp.int32),
    "key_value_seq_lengths": jnp.asarray([0, 11], jnp.int32),
}

CASES = {
    "plain": ({}, {}),
    "causal": ({}, {"is_causal": True}),
    "a scale": ({}, {"scale": 0.3}),
    "a bias": ({}, {"bias": bias(B, N, T, S)}),
    "a bias of -inf": ({}, {"bias": minus_infinity()}),
    "a bias for each key": ({}, {"bias": bias(B, 1, 1, S)}),
    "a bias for each head and key": ({}, {"bias": bias(1, N, 1, S)}),
    "a mask": ({}, {"mask": mask(B, N, T, S)}),
    "a mask for all heads": ({}, {"mask": mask(1, 1, T, S)}),
    "a mask for each query": ({}, {"mask": mask(B, N, T, 1)}),
    "a mask for each key": ({}, {"mask": mask(B, 1, 1, S)[..., :, :] | (jnp.arange(S) < 3)}),
    "a mask in order, with rows of nothing": (
        {},
        {"mask": mask(B, 1, T, S), "is_causal": True, "bias": bias(1, 1, T, S)},
    ),
    "as many key heads": ({"key_heads": N}, {}),
    "one key head": ({"key_heads": 1}, {"is_causal": True, "bias": bias(1, N, T, S)}),
    "more queries than keys": ({"queries": S, "keys": T}, {"is_causal": True}),
    "one query": ({"queries": 1}, {"bias": bias(1, N, 1, S)}),
    "two keys": ({"keys": 2}, {"is_causal": True}),
    "lengths": ({}, LENGTHS),
    "lengths in order": ({}, LENGTHS | {"is_causal": True}),
    "a window": ({"queries": 3 * S}, {"local_window_size": (3, 2)}),
    "a window in order": ({"keys": 3 * T}, {"local_window_size": (4, 0), "is_causal": True}),
}
"""Name: (shapes, arguments). In "a window" the last queries see no key."""
