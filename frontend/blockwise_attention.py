"""Softmax attention in blocks, with a derivative that is in blocks at every order.

    s_ij = q_i . k_j + bias_ij        p_ij = exp(s_ij - m_i) / l_i        out_i = sum_j p_ij v_j
    m_i = max_j s_ij                  l_i = sum_j exp(s_ij - m_i)

The value is FlashAttention's online softmax (Dao et al. 2022, arXiv 2205.14135): rows of scores go
through block by block, and only out, m and l are kept. The derivative is one rule, the tangent

    out_i' = sum_j p_ij (s_ij' v_j + v_j') - d_i out_i        d_i = sum_j p_ij s_ij'
    l_i'   = l_i d_i                                          m_i' = 0

whose blocks are computed again from m and l (`jax.checkpoint`). m is a shift that the value does
not depend on, so l carries all of the derivative. JAX transposes the rule, which gives
FlashAttention's backward pass, and differentiates it further: the rule calls `attend` again, and
is made of products, `exp` and sums. So forward over reverse and reverse over reverse hold no more
than one block of scores either.

m and l are kept apart, and not as m + log(l): in a row of which everything is masked m is -2e38,
and log(l) would be lost in it.

A `custom_vjp` with the backward pass written out would not do: JAX has no forward mode for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero, zero_from_primal

MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)
"""The score of a masked entry, as `jax.nn.dot_product_attention` has it: a row of which everything
is masked gives every key the same weight.
"""


@dataclasses.dataclass(frozen=True)
class Pattern:
    """What is known of the scores when the program is traced.

    Attributes:
      queries: how many queries there are, without those that fill the last block.
      keys: the same of keys.
      is_causal: whether query i attends to the keys 0 to i alone.
      window: how many keys to the left and to the right of its own position a query attends to.
    """

    queries: int
    keys: int
    is_causal: bool
    window: tuple[int, int] | None


class Operands(NamedTuple):
    """What `attend` computes from, in blocks. Heads are [K, G]: key heads, and queries for each.

    Attributes:
      query: [rows of blocks, B, K, G, block, H], scaled.
      key, value: [columns of blocks, B, K, block, H].
      bias, mask: [rows or 1, columns or 1, B or 1, K or 1, G or 1, block or 1, block or 1].
      query_lengths, key_lengths: int [B].
    """

    query: Any
    key: Any
    value: Any
    bias: Any = None
    mask: Any = None
    query_lengths: Any = None
    key_lengths: Any = None


def _attend(pattern: Pattern, operands: Operands) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(out, m, total): [rows of blocks, B, K, G, block, H], and twice the same without H."""
    query, key, value = operands[:3]
    dtype, shape = query.dtype, query.shape[1:-1]
    by_row, of_row = _by_block(operands.bias, operands.mask)

    # JAX forgets a rule where it takes a scan around the call apart for the reverse mode of a
    # gradient, and then differentiates this. So its blocks are computed again as well.
    @_computed_again
    def row(i, q, stacked, key, value):
        columns, of_column = _by_block(*of_row(stacked))

        def over(is_wanted):
            @_computed_again
            def column(carry, j, k, v, stacked):
                def seen(carry):
                    m, total, acc = carry
                    scores, _ = _scores(pattern, operands, i, j, q, k, *of_column(stacked))
                    new = jnp.maximum(m, jnp.max(scores, axis=-1))
                    shift = _finite(new)
                    weights = jnp.exp(scores - shift[..., None])
                    shrink = jnp.exp(m - shift)
                    acc = acc * shrink[..., None] + _weighted(weights, v)
                    return new, total * shrink + jnp.sum(weights, axis=-1), acc

                return _when(is_wanted(j), seen, carry)

            blocks = jnp.arange(len(key)), key, value, columns
            return lambda carry: lax.scan(lambda c, y: (column(c, *y), None), carry, blocks)[0]

        empty = jnp.full(shape, -jnp.inf, dtype), jnp.zeros(shape, dtype), jnp.zeros_like(q)
        m, total, acc = carry = over(lambda j: _is_visible(pattern, operands, i, j))(empty)
        if _may_be_masked(pattern, operands):
            others = over(lambda j: ~_is_visible(pattern, operands, i, j))
            m, total, acc = _when(_reaches_all(pattern, operands, i, m), others, carry)
        return acc / total[..., None], m, total

    rows = jnp.arange(len(query)), query, by_row
    return lax.scan(lambda _, x: (None, row(*x, key, value)), None, rows)[1]


attend = jax.custom_jvp(_attend, nondiff_argnums=(0,))


def _attend_jvp(pattern: Pattern, primals, tangents):
    (operands,), (moved,) = primals, tangents
    out, m, total = attend(pattern, operands)
    dq, dk, dv, dbias = (None if type(t) is SymbolicZero else t for t in moved[:4])
    query, key, value = operands[:3]
    by_row, of_row = _by_block(operands.bias, operands.mask, dbias)

    # Without the outer checkpoint JAX would keep the keys once for each row of blocks.
    @_computed_again
    def row(i, q, q_moved, m, total, out, stacked, key, value, dk, dv):
        columns, of_column = _by_block(*of_row(stacked))
        all_wanted = (
            _reaches_all(pattern, operands, i, m) if _may_be_masked(pattern, operands) else False
        )
        is_wanted = lambda j: _is_visible(pattern, operands, i, j) | all_wanted

        # The condition stands inside, since JAX keeps what a branch reads.
        @_computed_again
        def block(carry, j, q, q_moved, m, total, k, k_moved, v, v_moved, stacked):
            def seen(carry):
                bias, mask, bias_moved = of_column(stacked)
                scores, is_kept = _scores(pattern, operands, i, j, q, k, bias, mask)
                weights = jnp.exp(scores - _finite(m)[..., None]) / total[..., None]
                acc, d = carry
                scores_moved = _scores_moved(q, q_moved, k, k_moved, bias_moved, is_kept)
                if scores_moved is not None:
                    weighted = weights * scores_moved
                    acc, d = acc + _weighted(weighted, v), d + jnp.sum(weighted, axis=-1)
                if v_moved is not None:
                    acc = acc + _weighted(weights, v_moved)
                return acc, d

            return _when(is_wanted(j), seen, carry)

        def column(carry, y):
            j, k, k_moved, v, v_moved, stacked = y
            return block(carry, j, q, q_moved, m, total, k, k_moved, v, v_moved, stacked), None

        blocks = jnp.arange(len(key)), key, dk, value, dv, columns
        (acc, d), _ = lax.scan(column, (jnp.zeros_like(q), jnp.zeros_like(m)), blocks)
        return acc - d[..., None] * out, total * d

    rows = jnp.arange(len(query)), query, dq, m, total, out, by_row
    _, (out_moved, total_moved) = lax.scan(
        lambda _, x: (None, row(*x, key, value, dk, dv)), None, rows
    )
    return (out, m, total), (out_moved, zero_from_primal(m, symbolic_zeros=True), total_moved)


attend.defjvp(_attend_jvp, symbolic_zeros=True)


# --- One block ------------------------------------------------------------------------------------


def _scores(
    pattern: Pattern, operands: Operands, i, j, q, k, bias, mask
) -> tuple[jax.Array, jax.Array | None]:
    """The scores of block (i, j), and which of them are not masked (None: all of them)."""
    scores = _products(q, k)
    if bias is not None:
        scores = scores + bias
    rows, columns = _positions(q, i)[:, None], _positions(k, j)
    kept = [] if mask is None else [mask]
    if pattern.is_causal:
        kept.append(columns <= rows)
    if pattern.window is not None:
        left, right = pattern.window
        kept.append((columns >= rows - left) & (columns <= rows + right))
    for length, position in (
        (operands.query_lengths, rows),
        (operands.key_lengths, columns),
    ):
        if length is not None:
            kept.append(position < length[:, None, None, None, None])
    is_kept = None
    for condition in kept:
        is_kept = condition if is_kept is None else is_kept & condition
    if is_kept is not None:
        scores = jnp.where(is_kept, scores, MASKED)
    if pattern.keys % k.shape[-2]:
        # What fills the last block is not masked, which would give it weight in a row of which
        # everything is masked: it is not there.
        scores = jnp.where(columns < pattern.keys, scores, -jnp.inf)
    return scores, is_kept


def _scores_moved(q, q_moved, k, k_moved, bias_moved, is_kept) -> jax.Array | None:
    """The tangents of a block's scores, linear in what moved; None where none of it did."""
    moved = []
    if q_moved is not None:
        moved.append(_products(q_moved, k))
    if k_moved is not None:
        moved.append(_products(q, k_moved))
    if bias_moved is not None:
        shape = (*q.shape[:-1], k.shape[-2])
        moved.append(jnp.broadcast_to(bias_moved, shape))
    if not moved:
        return None
    scores_moved = sum(moved[1:], moved[0])
    return scores_moved if is_kept is None else jnp.where(is_kept, scores_moved, 0)


def _products(q: jax.Array, k: jax.Array) -> jax.Array:
    return jnp.einsum("bkgth,bksh->bkgts", q, k)


def _weighted(weights: jax.Array, v: jax.Array) -> jax.Array:
    return jnp.einsum("bkgts,bksh->bkgth", weights, v)


def _positions(block: jax.Array, index) -> jax.Array:
    size = block.shape[-2]
    return index * size + jnp.arange(size)


def _finite(m: jax.Array) -> jax.Array:
    """The shift of a row. A bias of -inf may have left it nothing so far."""
    return jnp.where(m == -jnp.inf, 0, m)


# --- Which blocks ---------------------------------------------------------------------------------


def _skips(pattern: Pattern) -> bool:
    return pattern.is_causal or pattern.window is not None


def _is_visible(pattern: Pattern, operands: Operands, i, j):
    """Whether block (i, j) holds an entry that neither the order nor the window masks."""
    rows, columns = operands.query.shape[-2], operands.key.shape[-2]
    first_row, first_column = i * rows, j * columns
    last_row, last_column = first_row + rows - 1, first_column + columns - 1
    visible = True
    if pattern.is_causal:
        visible = first_column <= last_row
    if pattern.window is not None:
        left, right = pattern.window
        visible &= (last_column >= first_row - left) & (first_column <= last_row + right)
    return visible


def _may_be_masked(pattern: Pattern, operands: Operands) -> bool:
    """Whether blocks are skipped that a row may need: one that is masked throughout has weight in
    every block. In causal order alone, each query has its first key.
    """
    others = operands.bias, operands.mask, operands.query_lengths, operands.key_lengths
    return _skips(pattern) and (
        pattern.window is not None or any(other is not None for other in others)
    )


def _reaches_all(pattern: Pattern, operands: Operands, i, m: jax.Array) -> jax.Array:
    """Whether a row of block row `i` is masked throughout, going by what is visible."""
    rows = _positions(operands.query, i)
    return jnp.any((m <= MASKED) & (rows < pattern.queries))


def _when(condition, function: Callable, carry):
    """`function(carry)`, or `carry` where the condition does not hold."""
    if condition is True:
        return function(carry)
    return lax.cond(condition, function, lambda carry: carry, carry)


def _computed_again(function: Callable) -> Callable:
    # Each stands in a loop, where XLA does not merge what is computed again with the first time.
    return jax.checkpoint(function, prevent_cse=False)


def _by_block(*arrays):
    """(arrays to scan over, function from their rows to all rows): for arrays [blocks or 1, ...].

    An array with one row for all blocks is not scanned over.
    """
    stacked = [None if x is None or len(x) == 1 else x for x in arrays]

    def rows(of_stacked):
        return [row if row is not None or x is None else x[0] for row, x in zip(of_stacked, arrays)]

    return stacked, rows
