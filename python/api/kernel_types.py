"""What each program of a streamed run takes and gives: shapes and dtypes of flat lists of arrays.

It is what compiler/passes/kernels.py writes. A file that says otherwise is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from metagrad.api.signature import Signature
from metagrad.frontend.pytrees import Leaf
from metagrad.runtime.executors.kernels import StepLayout
from metagrad.runtime.schedules.segment_tables import Segment

Avals = list[jax.ShapeDtypeStruct]

_INDEX = jax.ShapeDtypeStruct((), np.int32)
_CHECKSUM = jax.ShapeDtypeStruct((), np.uint32)


def kernel_types(
    signature: Signature,
    layout: StepLayout,
    segment: Segment,
    value: jax.ShapeDtypeStruct,
    captured: Sequence[Any],
) -> dict[str, tuple[Avals, Avals]]:
    """By the name of a program, what it takes and what it gives.

    Args:
      signature: of the run; its batches are stacked.
      value: of the outer function.
      captured: the arrays that its functions capture.
    """
    state, meta, batches, outer = (
        [leaf.stored for leaf in tree.leaves] for tree in signature.arguments
    )
    stacked = [_with_axes((segment.steps,), _row(aval)) for aval in batches]
    behind = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in captured]
    tables = [jax.ShapeDtypeStruct(shape, np.int32) for shape in segment.table_shapes]
    bars = lambda avals, places: [_with_axes(value.shape, avals[i]) for i in places]
    state_bar, meta_bar = bars(state, layout.state_bar), bars(meta, layout.meta_bar)
    changed = [state[i] for i in layout.changed]
    checksums = [_CHECKSUM for _ in changed if segment.checksums]
    aux = [_with_axes((segment.steps,), leaf.stored) for leaf in signature.aux.leaves]
    return {
        "advance": (
            [*state, *meta, *stacked, _INDEX, *behind],
            [*changed, *aux, *checksums, *([_CHECKSUM] if segment.checksums else [])],
        ),
        "outer_vjp": (
            [*state, *outer, *behind],
            [value, *_stored(signature.outer_aux.leaves), *state_bar],
        ),
        "reverse": (
            [*state, *meta, *stacked, _INDEX, _INDEX, *tables, *state_bar, *meta_bar, *behind],
            [
                *state_bar,
                *meta_bar,
                *bars(stacked, layout.batch_bar),
                *checksums,
                *(aux if segment.checksums else []),
            ],
        ),
    }


def _stored(leaves: Sequence[Leaf]) -> Avals:
    return [leaf.stored for leaf in leaves]


def _row(aval: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape[1:], aval.dtype)


def _with_axes(axes: tuple[int, ...], aval: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*axes, *aval.shape), aval.dtype)
