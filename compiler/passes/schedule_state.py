"""How the program that pass `schedule` writes comes by the state at a step t.

    unchanged leaves   the initial state's value (`metagrad.unchanged`)
    counters           row t of a table with T + 1 rows (`metagrad.counters`), which a loop over
                       @counters fills before anything else runs:

        table[0] = leaf
        for t in 0 .. T:  table[t + 1] = leaf = @counters(leaf, unchanged leaves, meta)

    stored leaves      all others: they are carried through the loops, and stored in slots

A leaf of the first two kinds is read where it lies, as meta and the batches are, and no loop
carries it. A table is as long as the plan's own tables, and a counter as small as their entries.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.dialect import functions, metagrad
from metagrad.compiler.dialect.loops import Carry, empty, index, repeat, row, set_row
from metagrad.compiler.dialect.metagrad import Layout

Values = list[ir.Value]


class StateLeaves:
    """The leaves of the state in one program.

    Attributes:
      stored: the leaves that change and are no counters, by index and ascending.
      changed: the leaves that change, counters among them.
    """

    def __init__(self, module: ir.Module, pass_name: str):
        layout = Layout.of(module)
        self._unchanged, self._counters = (
            metagrad.leaves_of(module, name) for name in (metagrad.UNCHANGED, metagrad.COUNTERS)
        )
        self._advance = functions.need(module, "counters", pass_name) if self._counters else None
        elsewhere = {*self._unchanged, *self._counters}
        self.stored = [i for i in range(layout.state) if i not in elsewhere]
        self.changed = [i for i in range(layout.state) if i not in self._unchanged]

    def begin(self, state0: Sequence[ir.Value], meta: Sequence[ir.Value], steps: int) -> None:
        """Writes the loop that fills the counters' tables, at the current insertion point."""
        self._state0, self._meta = list(state0), list(meta)
        self._tables: dict[int, ir.Value] = {}
        if self._advance is None:
            return
        first = [state0[i] for i in self._counters]
        tables = [set_row(empty(steps + 1, leaf.type), index(0), leaf) for leaf in first]
        carry = repeat(index(0), index(steps), {"leaves": first, "tables": tables}, self._one_turn)
        self._tables = dict(zip(self._counters, carry["tables"]))

    def _one_turn(self, t: ir.Value, carry: Carry) -> Carry:
        assert self._advance is not None, "called only where there are counters"
        leaves = functions.call(
            self._advance, [*self._filled(dict(zip(self._counters, carry["leaves"]))), *self._meta]
        )
        following = hlo.add(t, index(1))
        tables = [
            set_row(stacked, following, leaf) for stacked, leaf in zip(carry["tables"], leaves)
        ]
        return {"leaves": leaves, "tables": tables}

    def stored_of(self, state: Sequence[ir.Value]) -> Values:
        """The stored leaves among those of a whole state."""
        return [state[i] for i in self.stored]

    def at(self, t: ir.Value, stored: Sequence[ir.Value]) -> Values:
        """The whole state at step t, of which the stored leaves are given."""
        counters = {i: row(stacked, t) for i, stacked in self._tables.items()}
        return self._filled(counters | dict(zip(self.stored, stored)))

    def _filled(self, leaves: dict[int, ir.Value]) -> Values:
        """A whole state; a leaf that is not given has its initial value."""
        return [leaves.get(i, leaf) for i, leaf in enumerate(self._state0)]
