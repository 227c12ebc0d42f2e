"""What a slot holds of the state, as `Lowered.explain` says it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from metagrad.diagnostics.paths import enumerate_paths
from metagrad.frontend.jaxprs.counters import Counters
from metagrad.frontend.pytrees import Leaf, Tree


def explain_slots(
    state: Tree, unchanged: Sequence[int], counters: Counters | None
) -> tuple[str, ...]:
    """Lines on the leaves of the state that no slot holds; none if slots hold all of it.

    Args:
      state: the state's tree.
      unchanged: the leaves that the step returns as they came, by index.
      counters: the leaves that depend on the step's number alone; None if there are none.
    """
    of_counters = () if counters is None else counters.leaves
    if not unchanged and not of_counters:
        return ()
    elsewhere = {*unchanged, *of_counters}
    stored = [leaf for i, leaf in enumerate(state.leaves) if i not in elsewhere]
    lines = [
        f"a slot holds {len(stored)} of the state's {len(state.leaves)} leaves, {_size(stored)}"
    ]
    for why, places in (("not changed by the step", unchanged), ("counters", of_counters)):
        if places:
            leaves = [state.leaves[i] for i in places]
            paths = enumerate_paths([leaf.path for leaf in leaves])
            lines.append(f"    {why}: {paths} ({_size(leaves)})")
    return tuple(lines)


def _size(leaves: Sequence[Leaf]) -> str:
    total = sum(math.prod(leaf.stored.shape) * leaf.stored.dtype.itemsize for leaf in leaves)
    return f"{total:,} bytes"
