"""The cotangents in the program that pass `schedule` writes: which are carried from segment to
segment, how they are summed up, and the gradient that they are in the end.

    state_bar    of `metagrad.between_steps`: what @step_vjp takes, and returns for the step before
    meta_bar     summed up over the steps
    batch_bar    one row for each step

Where the outer value is a vector (pass `queries`), all of them have a leading axis for the queries;
a row of batch_bar is then one of its second axis.

A cotangent of meta or of the batches that @step_vjp returns as zeros at every step is not carried;
zeros are its gradient. A large array of zeros that goes through the loops would be a buffer more,
and XLA would fold what is computed from it when it compiles, for a minute if the array is large.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.dialect import known_zeros
from metagrad.compiler.dialect.functions import is_float
from metagrad.compiler.dialect.loops import Carry, set_row, zeros
from metagrad.compiler.dialect.metagrad import Layout, between_steps_of, wrt_of
from metagrad.compiler.passes.queries import queries_of, with_queries

Values = list[ir.Value]

NAMES = "state_bar", "meta_bar", "batch_bar"
"""The cotangents in the carry, in the order in which @step_vjp returns them."""


class Cotangents:
    """Where the cotangents of a module's @step_vjp go.

    Attributes:
      state: the leaves of the state whose cotangent goes from step to step, by index.
    """

    def __init__(self, module: ir.Module, step_vjp: func.FuncOp):
        self._layout, self._wrt = Layout.of(module), wrt_of(module)
        self._step_vjp = step_vjp
        self.state = between_steps_of(module)
        self._queries = queries_of(module)
        is_zero = known_zeros.zero_results(module, step_vjp)
        result = itertools.count(len(self.state))
        # For each group: argument of @step -> the result of @step_vjp that is its cotangent.
        self._meta, self._batches = (
            dict(zip(self._floats(step_vjp.type.inputs, group), result))
            if group in self._wrt
            else {}
            for group in ("meta", "batches")
        )
        for group in (self._meta, self._batches):
            for i in [i for i, k in group.items() if is_zero[k]]:
                del group[i]

    def _floats(self, types: Sequence[ir.Type], group: str) -> list[int]:
        return [i for i in self._layout.arguments(group) if is_float(types[i])]

    def begin(self, operands: Sequence[ir.Value]) -> Carry:
        """What is carried, before the first segment.

        Args:
          operands: those of @main. A leaf has the type of its gradient, or of its gradient's entry
            for one query.
        """
        leaves = self.state, self._meta, self._batches
        return {
            name: [zeros(with_queries(operands[i].type, self._queries)) for i in of]
            for name, of in zip(NAMES, leaves)
        }

    @property
    def types(self) -> tuple[list[ir.Type], list[ir.Type]]:
        """Those of the cotangents of the state and of meta that are carried."""
        results = list(self._step_vjp.type.results)
        return results[: len(self.state)], [results[k] for k in self._meta.values()]

    @property
    def leaves(self) -> tuple[list[int], list[int], list[int]]:
        """The leaves of the state, of meta and of a batch whose cotangents are carried, each by
        its index in the group.
        """
        meta, batches = (
            [i - self._layout.arguments(group).start for i in leaves]
            for group, leaves in (("meta", self._meta), ("batches", self._batches))
        )
        return self.state, meta, batches

    def begin_segment(
        self, operands: Sequence[ir.Value], state_bar: Values, meta_bar: Values
    ) -> Carry:
        """What is carried, before the last step of a segment is reversed.

        Args:
          operands: the step's, batches stacked over the segment.
          state_bar, meta_bar: what the segments behind it left.
        """
        batch_bar = [zeros(with_queries(operands[i].type, self._queries)) for i in self._batches]
        return dict(zip(NAMES, (state_bar, meta_bar, batch_bar)))

    def add(self, carry: Carry, t: ir.Value, results: Values) -> Carry:
        """What is carried when @step_vjp has returned `results` for step t."""
        meta_bar, batch_bar = (
            [results[k] for k in group.values()] for group in (self._meta, self._batches)
        )
        return {
            "state_bar": results[: len(self.state)],
            "meta_bar": [hlo.add(total, more) for total, more in zip(carry["meta_bar"], meta_bar)],
            "batch_bar": [
                set_row(stack, t, leaf, axis=0 if self._queries is None else 1)
                for stack, leaf in zip(carry["batch_bar"], batch_bar)
            ],
        }

    def gradient(self, operands: Sequence[ir.Value], carry: Carry) -> Values:
        """The gradient, one array for each float leaf of the groups that `metagrad.wrt` names."""
        gradient: Values = []
        types = [with_queries(operand.type, self._queries) for operand in operands]
        groups = zip(("state", "meta", "batches"), (self.state, self._meta, self._batches), NAMES)
        for group, leaves, name in groups:
            if group in self._wrt:
                of_leaf = dict(zip(leaves, carry[name]))
                gradient += [of_leaf.get(i) or zeros(types[i]) for i in self._floats(types, group)]
        return gradient
