"""What `explain()` and a plan say of the blocks that are computed again."""

from __future__ import annotations

import collections

from metagrad.frontend.recomputation import Recomputed


def explain_blocks(recomputed: Recomputed | None) -> list[str]:
    """Lines of text; none if no blocks are to be computed again."""
    if recomputed is None:
        return []
    if not any(recomputed.values()):
        names = ", ".join(recomputed)
        return [
            f'remat="blocks": no blocks were found in {names}. A block is a turn of a scan, or '
            "what a loop over equal layers repeats, with products of matrices in it. Layers in a "
            "jax.checkpoint of yours stay as they are, and so do those that would save less than a "
            "quarter (docs/remat.md)."
        ]
    lines = ["computed again, and not kept, for each derivative:"]
    for name, blocks in recomputed.items():
        each = [
            str(of_kind) if times == 1 else f"{times} times {of_kind}"
            for of_kind, times in collections.Counter(blocks).items()
        ]
        lines.append(f"    in {name}: {', '.join(each) or 'no blocks were found'}")
    return lines


def summarize_blocks(recomputed: Recomputed | None) -> str:
    """The same in a few words, for a plan; empty if nothing is computed again."""
    counts = {
        name: sum(each.count for each in blocks)
        for name, blocks in (recomputed or {}).items()
        if blocks
    }
    each = (f"{count} blocks of {name}" for name, count in counts.items())
    return f"{', '.join(each)} are computed again" if counts else ""
