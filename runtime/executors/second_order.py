"""Tangents of all results of a metagradient: `jax.jvp` of it, a product with the Hessian of a run.

They are computed by a program of the run with its tangents (derived.py). It is made when they are
needed, and not before: reverse mode asks for the tangent of the value alone, which first_order.py
has without another program. So here is an operation that holds a function,

    tangents = lazy_p(operands)

which is traced when the operation is lowered or run. Its own derivative is one more of these.
It has no transpose: reverse mode over the gradient of a run would hold what each step of the
reversal made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from metagrad.runtime.executors.fused import FusedProgram
from metagrad.runtime.moving_operands import push


def tangents_of_results(
    program: FusedProgram,
    primals: Sequence[Any],
    tangents: dict[int, Any],
    refusals: Sequence[str],
) -> list:
    """The tangent of each result, by the chain rule through the whole run and its reversal.

    Args:
      program: whose derivations are not None.
      primals: its operands.
      tangents: of operands, by index.
      refusals: for each result, what reverse mode says, which has no rule.

    Returns:
      An array for each floating-point result, and None for the others.
    """
    of_floats = [i for i, out in enumerate(program.outputs) if _is_float(out)]
    avals = [program.outputs[i] for i in of_floats]
    results = iter(
        lazy_p.bind(
            *primals,
            *tangents.values(),
            function=_Tangents(program, tuple(tangents)),
            shapes=tuple(jax.core.ShapedArray(aval.shape, aval.dtype) for aval in avals),
            refusals=tuple(refusals[i] for i in of_floats),
        )
    )
    return [next(results) if _is_float(out) else None for out in program.outputs]


def _is_float(result: Any) -> bool:
    return jnp.issubdtype(result.dtype, jnp.floating)


@dataclasses.dataclass(frozen=True)
class _Tangents:
    """(operands, tangents of the operands `moving`) -> tangents of the floating-point results."""

    program: FusedProgram
    moving: tuple[int, ...]

    def __call__(self, *operands) -> list[jax.Array]:
        assert self.program.derivations is not None
        count = len(operands) - len(self.moving)
        run = self.program.derivations.with_tangents(self.moving)
        results = run.call(operands[:count], dict(zip(self.moving, operands[count:])))
        return [
            jnp.zeros(out.shape, out.dtype) if tangent is None else tangent
            for out, tangent in zip(self.program.outputs, results, strict=True)
            if _is_float(out)
        ]


@dataclasses.dataclass(frozen=True)
class _TangentsOf:
    """(operands, tangents of the operands `moving`) -> tangents of a function's results."""

    function: Callable
    moving: tuple[int, ...]

    def __call__(self, *operands) -> list[jax.Array]:
        count = len(operands) - len(self.moving)
        return push(self.function, operands[:count], dict(zip(self.moving, operands[count:])))[1]


# --- The operation --------------------------------------------------------------------------------

lazy_p = Primitive("metagrad_lazy")
lazy_p.multiple_results = True


def _compute(*operands, function, shapes, refusals):
    return function(*operands)


@lazy_p.def_abstract_eval
def _shapes(*avals, function, shapes, refusals):
    return list(shapes)


def _batch(operands, axes, *, function, shapes, refusals):
    results = jax.vmap(function, in_axes=list(axes))(*operands)
    return results, [0] * len(results)


def _jvp(primals, tangents, *, function, shapes, refusals):
    moving = {i: tangent for i, tangent in enumerate(tangents) if type(tangent) is not ad.Zero}
    params = {"shapes": shapes, "refusals": refusals}
    results = lazy_p.bind(*primals, function=function, **params)
    of_function = _TangentsOf(function, tuple(moving))
    return results, lazy_p.bind(*primals, *moving.values(), function=of_function, **params)


def _transpose(cotangents, *operands, function, shapes, refusals):
    raise NotImplementedError(
        next(
            refusal
            for cotangent, refusal in zip(cotangents, refusals)
            if type(cotangent) is not ad.Zero
        )
    )


lazy_p.def_impl(_compute)
mlir.register_lowering(lazy_p, mlir.lower_fun(_compute, multiple_results=True))
batching.primitive_batchers[lazy_p] = _batch
ad.primitive_jvps[lazy_p] = _jvp
ad.primitive_transposes[lazy_p] = _transpose
