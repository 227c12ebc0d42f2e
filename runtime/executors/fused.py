"""The whole run as one XLA program: a StableHLO module of ours as an operation of JAX.

`FusedProgram.call` is a JAX function of flat lists of arrays. It composes with `jax.jit`,
`jax.lax.scan`, `jax.lax.map` and `jax.export`. Where JAX lowers it, the module is merged into the
one that is being lowered.

Its derivative is in first_order.py; a program that calls the host in host_calls.py.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Callable, Sequence

import jax
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func

from metagrad.runtime.executors import host_calls
from metagrad.runtime.jax_internals import debug_effect

fused_p = Primitive("metagrad_fused")
fused_p.multiple_results = True


@dataclasses.dataclass(frozen=True)
class Gradients:
    """What a program knows of its own derivative: that of its first result, the value.

    Attributes:
      of_input: for an input, by index, the result that is the gradient of the value in it.
      inputs: what the user calls each input.
      results: what the user calls each result.
    """

    of_input: dict[int, int]
    inputs: tuple[str, ...]
    results: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class FusedProgram:
    """A module whose public function @main maps `inputs` to `outputs`.

    Attributes:
      bytecode: the module, as MLIR bytecode.
      inputs, outputs: shapes and dtypes of flat lists of arrays.
      callbacks: the host functions that the module calls, by the index in its calls.
      gradients: what `jax.grad` of a function around the program may use; None: nothing.
    """

    bytecode: bytes
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    outputs: tuple[jax.ShapeDtypeStruct, ...]
    callbacks: tuple[Callable, ...] = ()
    gradients: Gradients | None = None

    def call(self, *arrays):
        """The results for arrays of the shapes and dtypes of `inputs`."""
        return fused_p.bind(*arrays, program=self)

    @functools.cached_property
    def jitted(self) -> Callable:
        """`call` as a program of its own, compiled once."""
        return jax.jit(self.call)


def fused(
    module: ir.Module,
    inputs: Sequence[jax.ShapeDtypeStruct],
    outputs: Sequence[jax.ShapeDtypeStruct],
    callbacks: Sequence[Callable] = (),
    gradients: Gradients | None = None,
) -> FusedProgram:
    """Wraps a module.

    Raises:
      ValueError: @main's signature is not that of `inputs` and `outputs`.
    """
    main = next(op for op in module.body.operations if op.attributes["sym_name"].value == "main")
    with module.context, ir.Location.unknown():
        expected = [
            ir.RankedTensorType.get(array.shape, mlir.dtype_to_ir_type(array.dtype))
            for array in (*inputs, *outputs)
        ]
    assert isinstance(main, func.FuncOp)
    actual = [*main.type.inputs, *main.type.results]
    if actual != expected:
        raise ValueError(f"@main is {main.type}, and its arguments and results are {expected}")
    buffer = io.BytesIO()
    module.operation.write_bytecode(buffer)
    return FusedProgram(
        buffer.getvalue(), tuple(inputs), tuple(outputs), tuple(callbacks), gradients
    )


@fused_p.def_effectful_abstract_eval
def _shapes(*avals, program: FusedProgram):
    results = [jax.core.ShapedArray(out.shape, out.dtype) for out in program.outputs]
    return results, {debug_effect} if program.callbacks else set()


@fused_p.def_impl
def _run(*arrays, program: FusedProgram):
    return program.jitted(*arrays)


def _lower(ctx: mlir.LoweringRuleContext, *operands, program: FusedProgram):
    target = ctx.module_context
    with target.module.context:
        module = ir.Module.parse(program.bytecode)
        if program.callbacks:
            host_calls.add(module, program.callbacks, ctx)
        main = next(
            op for op in module.body.operations if op.attributes["sym_name"].value == "main"
        )
        results = main.type.results
        name = mlir.merge_mlir_modules(
            target.module, "metagradient", module, dst_symtab=target.symbol_table
        )
        return func.CallOp(results, ir.FlatSymbolRefAttr.get(name), list(operands)).results


# Each lowering has its own host functions, so one must not be found in another's cache.
mlir.register_lowering(fused_p, _lower, cacheable=False)
