"""Whether blocks are worth computing again: which of two nested repeats leaves fewer bytes."""

from __future__ import annotations

from jax.extend import core

from metagrad.frontend.jaxprs.activations import kept, peak

OUTER, INNER, BOTH, NEITHER = "outer", "inner", "both", "neither"

WORTH = 0.75
"""Blocks are computed again if that leaves at most this part of the bytes."""

WORTH_TWICE = 0.5
"""A block in a block is computed again twice if that leaves at most this part of the bytes."""


def which_repeats(count: int, entrance: int, block: core.Jaxpr, within: core.Jaxpr) -> str:
    """Which repeats are put into `jax.checkpoint`s: OUTER, INNER, BOTH or NEITHER.

    Args:
      count: how many blocks there are.
      entrance: bytes that go into each and are kept for it.
      block: the largest of them.
      within: the same with the repeats in it in `jax.checkpoint`s. If it has none worth that, this
        is `block`.
    """
    nothing = count * kept(block)
    outer = count * entrance + peak(block)
    inner = (count - 1) * kept(within) + peak(within)
    both = count * entrance + peak(within)
    if both <= WORTH_TWICE * min(outer, inner) and within is not block:
        return BOTH
    if within is not block and inner < outer:
        return INNER
    return OUTER if outer <= WORTH * nothing else NEITHER
