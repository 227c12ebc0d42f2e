"""The registry of passes, and the order of those that follow the schedule."""

from __future__ import annotations

from metagrad.compiler.passes import cut, differentiate, expand, raise_gradients, schedule, verify
from metagrad.compiler.passes.for_enzyme import counters_first, scalar_slices, widen_counters
from metagrad.compiler.passes.for_xla import (
    canonicalise_convolutions,
    drop_clearing,
    flatten_contractions,
    inverse_square_roots,
    join_pads,
    reverse_kernels,
    save_products,
    transpose_products,
    update_rows,
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
        schedule,
        *AFTER_SCHEDULE,
    )
}
"""Every pass by its name on the command line."""
