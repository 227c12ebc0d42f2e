"""Arrays that the step, a loss or the outer function captures: they are arguments of the program.

A constant of a module is printed, hashed, sent to Enzyme and folded by XLA, which takes time and
memory with its size. So where a jaxpr is emitted, an array constant becomes an equation without
operands,

    c: f32[1000000] = metagrad_captured[index=0]

which is lowered to a custom call that names the array. compiler/dialect/captured.py makes arguments
of these. A traced value that is closed over (the metagradient is called under `jax.jit`) has no
other form.

An array of at most `SMALL` bytes stays a constant: what is known can be simplified.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import jax
import numpy as np
from jax.extend import core
from jax.extend.core import Primitive
from jax.interpreters import mlir

from metagrad.compiler.dialect import captured as dialect
from metagrad.frontend import dtypes, leaked_values
from metagrad.frontend.jaxprs.calls import map_functions
from metagrad.frontend.jaxprs.interpret import bind, interpret
from metagrad.runtime.host_arrays import copy_for_xla
from metagrad.runtime.placed_arrays import PlacedArrays

SMALL = 1024
"""Bytes of an array that stays a constant."""

captured_p = Primitive("metagrad_captured")


@captured_p.def_abstract_eval
def _shape(*, index, aval):
    return aval


def _lower(ctx: mlir.LoweringRuleContext, *, index, aval):
    (ty,) = mlir.aval_to_ir_types(ctx.module_context, aval)
    return [dialect.captured(ty, index)]


mlir.register_lowering(captured_p, _lower)


class Captured:
    """The arrays that the functions of one program capture, each once."""

    def __init__(self, before: Captured | None = None) -> None:
        """Begins without arrays, or behind those that another program has captured.

        A caller has the arrays of `before`, so this one neither keeps nor places them.
        """
        self._values: list = [] if before is None else list(before._values)
        self._index_of: dict[int, int] = {} if before is None else dict(before._index_of)
        self._before = len(self._values)
        # With each function, which must live as long as its place in memory stands for it.
        self._lifted: dict[int, tuple[core.ClosedJaxpr, core.ClosedJaxpr]] = {}
        self._stored = PlacedArrays([])

    def lift(self, closed: core.ClosedJaxpr) -> core.ClosedJaxpr:
        """The function without large or traced constants, in it and in the functions that it calls.

        The same object if it has none.
        """
        known = self._lifted.get(id(closed))
        if known is None:
            known = self._lifted[id(closed)] = closed, self._without_constants(closed)
        return known[1]

    def _without_constants(self, closed: core.ClosedJaxpr) -> core.ClosedJaxpr:
        params = {}
        for eqn in closed.jaxpr.eqns:
            new = map_functions(eqn.params, self.lift)
            if new is not eqn.params:
                params[id(eqn)] = new
        if not params and not any(map(_is_lifted, closed.consts)):
            return closed

        def rule(eqn, operands):
            if id(eqn) not in params:
                return None
            return bind(eqn.replace(params=params[id(eqn)]), operands)

        return jax.make_jaxpr(lambda *args: interpret(closed, args, rule, self._argument))(
            *closed.in_avals
        )

    def _argument(self, value):
        if not _is_lifted(value):
            return value
        index = self._index_of.get(id(value))
        if index is None:
            leaked_values.check_value(value)
            index = self._index_of[id(value)] = len(self._values)
            self._values.append(value)
        aval = jax.typeof(value)
        return captured_p.bind(
            index=index, aval=jax.core.ShapedArray(aval.shape, aval.dtype, aval.weak_type)
        )

    def avals(self) -> list[jax.ShapeDtypeStruct]:
        """Shapes and dtypes of `arrays`."""
        return [jax.eval_shape(_stored, value) for value in self._values]

    @property
    def are_traced(self) -> bool:
        """Whether one is a traced value, so that the program is a part of one trace only."""
        return any(isinstance(value, jax.core.Tracer) for value in self._values)

    def is_same(self, other: Captured) -> bool:
        """Whether these are the very same arrays."""
        return len(self._values) == len(other._values) and all(
            map(operator.is_, self._values, other._values)
        )

    def store_arrays(self) -> None:
        """Keeps the arrays as they are now, when all functions have been lifted.

        A NumPy array is copied: its owner may write to it.
        """
        self._stored = PlacedArrays([_stored(value) for value in self._values[self._before :]])
        self._lifted.clear()

    def arrays_beside(
        self, arguments: Sequence[jax.Array], mesh: jax.sharding.Mesh | None = None
    ) -> list[jax.Array]:
        """The arrays as the program takes them, on the devices of its arguments; where these are on
        none in particular, on those of the mesh.

        As with constants under `jax.jit`, where they were has no say. Typed keys are their data.
        Those that were captured before are not among them.
        """
        return self._stored.beside(arguments, mesh)


def _is_lifted(value) -> bool:
    if isinstance(value, jax.core.Tracer):
        return True
    shape = getattr(value, "shape", ())
    if not shape or dtypes.is_key(value):
        return False
    return math.prod(shape) * value.dtype.itemsize > SMALL


def _stored(value) -> jax.Array:
    if isinstance(value, jax.core.Tracer):
        return jax.random.key_data(value) if dtypes.is_key(value) else value
    # The first call may be traced, and the array outlives that trace.
    with jax.ensure_compile_time_eval():
        return _on_device(value)


def _on_device(value) -> jax.Array:
    if dtypes.is_key(value):
        return jax.random.key_data(value)
    if isinstance(value, jax.Array):
        return value
    return jax.device_put(copy_for_xla(np.asarray(value), jax.typeof(value).dtype))
