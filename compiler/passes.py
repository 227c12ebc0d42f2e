"""The registry of passes, and the order of those that follow the schedule."""

from __future__ import annotations

from metagrad.compiler import (
    canonicalise_convolutions,
    counters_first,
    cut,
    differentiate,
    drop_clearing,
    expand,
    flatten_contractions,
    inverse_square_roots,
    join_pads,
    raise_gradients,
    rematerialise,
    reverse_kernels,
    save_products,
    scalar_slices,
    transpose_products,
    update_rows,
    verify,
    widen_counters,
)

# From what the scheduler has written to plain StableHLO, in order.
AFTER_SCHEDULE = (
    widen_counters,
    counters_first,
    expand,
    drop_clearing,
    update_rows,
    save_products,
    inverse_square_roots,
    join_pads,
    flatten_contractions,
    transpose_products,
    reverse_kernels,
    canonicalise_convolutions,
)

PASSES = {
    module.NAME: module
    for module in (
        scalar_slices,
        raise_gradients,
        verify,
        cut,
        differentiate,
        rematerialise,
        *AFTER_SCHEDULE,
    )
}
"""Every pass by its name on the command line."""
