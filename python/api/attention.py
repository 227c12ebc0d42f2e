"""`metagrad.dot_product_attention`: softmax attention in memory that is linear in the context."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from metagrad.frontend.blockwise_attention import Operands, Pattern, attend
from metagrad.frontend.jaxprs.auto_axes import explicit_sharding

BLOCK_SIZE = 128
"""As fast as any of 64 to 1024 on a CPU, for contexts of 512 and 2048 (docs/attention.md)."""


def dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    bias: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    *,
    scale: ArrayLike | None = None,
    is_causal: bool = False,
    query_seq_lengths: ArrayLike | None = None,
    key_value_seq_lengths: ArrayLike | None = None,
    local_window_size: int | tuple[int, int] | None = None,
    block_size: int | tuple[int, int] = BLOCK_SIZE,
    implementation: None = None,
    return_residual: bool = False,
) -> jax.Array:
    """Softmax attention without a buffer of the size of the scores, at both orders.

    softmax(scale * query key^T + bias) value, with the arguments and the meaning of
    `jax.nn.dot_product_attention`. The value, its gradient, and the derivative of that gradient
    hold one block of the scores at a time. So their memory grows linearly with the number of
    queries and of keys.

    Of B batches, T queries, S keys, N query heads and K key heads (N is a multiple of K), with
    heads of length H. Other dtypes than float64 are computed in float32, as in JAX; float64 is
    computed in float64, where JAX computes the softmax in float32.

    Args:
      query: [B, T, N, H], or [T, N, H] where key and value have no batch either.
      key, value: [B, S, K, H], of the query's dtype.
      bias: added to the scores; four axes (missing ones are added in front), each of the length of
        [B, N, T, S] or 1. Its gradient has its shape.
      mask: bool, of such a shape. An entry that is False gets no weight; a row of which everything
        is masked gives all keys the same weight, as in JAX. (A mask of T x S entries is itself as
        large as the scores: say what `is_causal`, the lengths or the window can say by them.)
      scale: factor of the scores; 1 / sqrt(H) by default.
      is_causal: whether query i attends to the keys 0 to i alone. Blocks above the diagonal are
        skipped.
      query_seq_lengths, key_value_seq_lengths: int32 [B]: queries and keys from there on are
        padding. What belongs to a padded query is zero.
      local_window_size: (left, right): how many keys before and after its own position a query
        attends to; a number stands for both. Blocks outside are skipped.
      block_size: at most so many queries and keys in a block, or (queries, keys). Larger blocks are
        faster, up to a point, and hold B * N * queries * keys scores.
      implementation: None. This is an implementation of its own.
      return_residual: False.

    Returns:
      [B, T, N, H] of the query's dtype, or [T, N, H].

    Raises:
      ValueError: a shape, a dtype or a block size does not fit; the message names the argument.
      NotImplementedError: `implementation` or `return_residual` is given.
    """
    if implementation is not None:
        raise NotImplementedError(
            f"implementation={implementation!r}: metagrad.dot_product_attention is one of its own. "
            "jax.nn.dot_product_attention has the others; of them, cuDNN's has no second derivative"
        )
    if return_residual:
        raise NotImplementedError(
            "return_residual=True: metagrad.dot_product_attention returns the output alone"
        )
    q, k, v = (
        _of_rank_4(name, given)
        for name, given in (("query", query), ("key", key), ("value", value))
    )
    b = None if bias is None else _of_rank_4("bias", bias)
    masked = None if mask is None else _of_rank_4("mask", mask)
    _check_shapes(q, k, v)
    batch, queries, heads, length = q.shape
    keys = k.shape[1]
    for name, array in (("bias", b), ("mask", masked)):
        _check_broadcast(name, array, (batch, heads, queries, keys))
    if masked is not None and masked.dtype != np.dtype(bool):
        raise ValueError(f"mask: its dtype must be bool, and it is {masked.dtype}")
    query_lengths = _lengths("query_seq_lengths", query_seq_lengths, batch)
    key_lengths = _lengths("key_value_seq_lengths", key_value_seq_lengths, batch)
    rows, columns = _blocks(block_size, queries, keys)
    pattern = Pattern(queries, keys, bool(is_causal), _window(local_window_size))
    shape = jnp.asarray(query).shape
    if 0 in (batch, queries, heads, keys):
        return jnp.zeros(shape, q.dtype)

    compute = functools.partial(_attention, pattern, rows, columns, shape)
    sharding = explicit_sharding(jax.typeof(jnp.asarray(query)))
    if sharding is not None:
        # Blocks have other shapes than the arguments, and no shardings that a user could name.
        compute = jax.sharding.auto_axes(compute, out_sharding=sharding)
    scale = 1 / math.sqrt(length) if scale is None else scale
    return compute(q, k, v, b, masked, scale, query_lengths, key_lengths)


def _attention(
    pattern, rows, columns, shape, q, k, v, bias, mask, scale, query_lengths, key_lengths
):
    batch, queries, heads, length = q.shape
    key_heads = k.shape[2]
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    scaled = q.astype(dtype) * jnp.asarray(scale, dtype)
    grouped = scaled.reshape(batch, queries, key_heads, heads // key_heads, length)
    out, _, _ = attend(
        pattern,
        Operands(
            jnp.moveaxis(_in_blocks(grouped, 1, *rows), (1, 2), (0, 4)),
            jnp.moveaxis(_in_blocks(k.astype(dtype), 1, *columns), (1, 2), (0, 3)),
            jnp.moveaxis(_in_blocks(v.astype(dtype), 1, *columns), (1, 2), (0, 3)),
            None
            if bias is None
            else _scores_in_blocks(bias.astype(dtype), key_heads, rows, columns),
            None if mask is None else _scores_in_blocks(mask, key_heads, rows, columns),
            query_lengths,
            key_lengths,
        ),
    )
    out = jnp.moveaxis(out, (0, 4), (1, 2)).reshape(batch, -1, heads, length)[:, :queries]
    if query_lengths is not None:
        is_there = jnp.arange(queries) < query_lengths[:, None]
        out = jnp.where(is_there[:, :, None, None], out, 0)
    return out.astype(q.dtype).reshape(shape)


# --- Arguments ------------------------------------------------------------------------------------


def _of_rank_4(name: str, given: ArrayLike) -> jax.Array:
    array = jnp.asarray(given)
    if array.ndim > 4:
        raise ValueError(f"{name}: it must have at most 4 axes, and its shape is {array.shape}")
    return array.reshape((1,) * (4 - array.ndim) + array.shape)


def _check_shapes(query: jax.Array, key: jax.Array, value: jax.Array) -> None:
    batch, _, heads, length = query.shape
    if not jnp.issubdtype(query.dtype, jnp.floating):
        raise ValueError(f"query: its dtype must be a float, and it is {query.dtype}")
    if key.shape[0] != batch or key.shape[3] != length:
        raise ValueError(
            f"key: its shape must be [B, S, K, H] = [{batch}, S, K, {length}] for a query of shape "
            f"{query.shape}, and it is {key.shape}"
        )
    if value.shape != key.shape:
        raise ValueError(f"value: its shape must be the key's, {key.shape}; it is {value.shape}")
    for name, array in (("key", key), ("value", value)):
        if array.dtype != query.dtype:
            raise ValueError(
                f"{name}: its dtype must be the query's, {query.dtype}; it is {array.dtype}"
            )
    if key.shape[2] == 0 or heads % key.shape[2]:
        raise ValueError(
            f"query: it has {heads} heads, which must be a multiple of the key's {key.shape[2]}"
        )


def _check_broadcast(name: str, array: jax.Array | None, shape: tuple[int, ...]) -> None:
    if array is not None and any(n not in (1, m) for n, m in zip(array.shape, shape)):
        raise ValueError(
            f"{name}: its shape must broadcast to [B, N, T, S] = {list(shape)}, and it is "
            f"{array.shape}"
        )


def _lengths(name: str, given: ArrayLike | None, batch: int) -> jax.Array | None:
    if given is None:
        return None
    array = jnp.asarray(given)
    if array.shape != (batch,) or array.dtype != jnp.int32:
        raise ValueError(
            f"{name}: it must be int32 of shape ({batch},), and it is {array.dtype} of shape "
            f"{array.shape}"
        )
    return array


def _window(given: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if given is None:
        return None
    left, right = (given, given) if isinstance(given, int) else given
    return int(left), int(right)


def _blocks(given, queries: int, keys: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(number, size) of the blocks of queries, and of those of keys."""
    sizes = tuple(given) if isinstance(given, (tuple, list)) else (given, given)
    if len(sizes) != 2 or not all(isinstance(size, (int, np.integer)) for size in sizes):
        raise ValueError(f"block_size: it must be an integer or two of them, and it is {given!r}")
    if min(sizes) < 1:
        raise ValueError(f"block_size: it must be positive, and it is {given!r}")
    return _even(queries, int(sizes[0])), _even(keys, int(sizes[1]))


def _even(count: int, most: int) -> tuple[int, int]:
    """The fewest blocks of at most `most`, and then the smallest: little of the last is filled."""
    number = max(1, -(-count // most))
    return number, -(-count // number)


# --- Blocks ---------------------------------------------------------------------------------------


def _in_blocks(array: jax.Array, axis: int, number: int, size: int) -> jax.Array:
    """[.., n, ..] -> [.., number, size, ..], zeros at the end of the last block."""
    missing = number * size - array.shape[axis]
    if missing:
        widths = [(0, missing if i == axis else 0) for i in range(array.ndim)]
        array = jnp.pad(array, widths)
    return array.reshape(*array.shape[:axis], number, size, *array.shape[axis + 1 :])


def _scores_in_blocks(
    array: jax.Array, key_heads: int, rows: tuple[int, int], columns: tuple[int, int]
) -> jax.Array:
    """[B, N, T, S] -> [rows, columns, B, K, G, block, block]; an axis of 1 stays one."""
    batch, heads, queries, keys = array.shape
    groups = (1, 1) if heads == 1 else (key_heads, heads // key_heads)
    array = array.reshape(batch, *groups, queries, keys)
    array = _in_blocks(array, 4, *((1, 1) if keys == 1 else columns))
    array = _in_blocks(array, 3, *((1, 1) if queries == 1 else rows))
    return jnp.moveaxis(array, (3, 5), (0, 1))
