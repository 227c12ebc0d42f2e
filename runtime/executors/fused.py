"""The whole run as one XLA program: a StableHLO module of ours as an operation of JAX.

`FusedProgram.call` is a JAX function of flat lists of arrays. It composes with `jax.jit`,
`jax.lax.scan`, `jax.lax.map` and `jax.export`. Where JAX lowers it, the module is merged into the
one that is being lowered.

Its derivatives are in first_order.py and second_order.py, `jax.vmap` of it is in many_runs.py; a
program that calls the host in host_calls.py.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax
import ml_dtypes
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jax.sharding import Mesh, Sharding
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func

from metagrad.runtime import jax_internals
from metagrad.runtime.executors import host_calls, placements
from metagrad.runtime.jax_internals import debug_effect

if TYPE_CHECKING:
    from metagrad.runtime.executors.derived import Derivations

fused_p = Primitive("metagrad_fused")
host_calling_p = Primitive("metagrad_fused_host_calling")
PRIMITIVES = (fused_p, host_calling_p)
"""The second is for programs that call the host. JAX keeps what it lowered for the first, and must
not for this one: each lowering has its own host functions."""


@dataclasses.dataclass(frozen=True)
class Gradients:
    """What a program knows of its own derivative: that of its first result, the value.

    Attributes:
      of_input: for an input, by index, the result that is the gradient of the value in it.
      like_input: for other results, by index, the input that they are like: for a leaf of the final
        state that of the first.
      inputs: what the user calls each input.
      results: what the user calls each result.
      axis_of_runs: where the program is of several runs side by side: for each input of `of_input`,
        the axis of the runs in it. The value is then the sum of all runs' values, which are the
        second result. None for one run.
    """

    of_input: dict[int, int]
    inputs: tuple[str, ...]
    results: tuple[str, ...]
    like_input: dict[int, int] = dataclasses.field(default_factory=dict)
    axis_of_runs: dict[int, int] | None = None

    @property
    def values(self) -> range:
        """The results whose derivatives are known."""
        return range(1 if self.axis_of_runs is None else 2)


@dataclasses.dataclass(frozen=True, eq=False)
class FusedProgram:
    """A module whose public function @main maps `inputs` to `outputs`.

    Attributes:
      bytecode: gives the module for a platform ("cpu", "cuda", ...), as MLIR bytecode. Asked once
        for each.
      platform: the platform of a lowering that does not say for which it is.
      inputs, outputs: shapes and dtypes of flat lists of arrays.
      callbacks: the host functions that the module calls, by the index in its calls.
      gradients: what `jax.grad` of a function around the program may use.
      mesh: the devices that the module speaks of, if there are several.
      derivations: makes programs for `jax.vmap` and second derivatives; None if nobody can.
    """

    bytecode: Callable[[str], bytes]
    platform: str
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    outputs: tuple[jax.ShapeDtypeStruct, ...]
    callbacks: tuple[Callable, ...]
    gradients: Gradients
    mesh: Mesh | None = None
    derivations: Derivations | None = None

    def call(self, *arrays):
        """The results for arrays of the shapes and dtypes of `inputs`."""
        operands = arrays if self.mesh is None else placements.on_mesh(arrays, self.mesh)
        primitive = host_calling_p if self.callbacks else fused_p
        return primitive.bind(*operands, program=self)

    @functools.cached_property
    def jitted(self) -> Callable:
        """`call` as a program of its own, compiled once."""
        return jax.jit(self.call)

    def jitted_to(self, shardings: tuple[Sharding, ...]) -> Callable:
        """`call` as a program whose results have these shardings, compiled once for each."""
        if shardings not in self._jitted_to:
            self._jitted_to[shardings] = jax.jit(self.call, out_shardings=list(shardings))
        return self._jitted_to[shardings]

    @functools.cached_property
    def _jitted_to(self) -> dict[tuple[Sharding, ...], Callable]:
        return {}

    @functools.cached_property
    def compiled(self) -> jax.stages.Compiled:
        """`jitted`, compiled for the default device before there are arrays.

        It takes arrays of that device, committed to it or not, where `jitted` would compile for
        both.
        """
        return self.jitted.lower(*self.inputs).compile()

    @property
    def is_compiled(self) -> bool:
        """Whether `compiled` is there."""
        return "compiled" in self.__dict__


def check_signature(
    module: ir.Module,
    inputs: Sequence[jax.ShapeDtypeStruct],
    outputs: Sequence[jax.ShapeDtypeStruct],
) -> None:
    """Compares a module's @main with what a program is to take and to give.

    Raises:
      ValueError: they differ.
    """
    main = _main(module)
    with module.context, ir.Location.unknown():
        expected = [
            ir.RankedTensorType.get(array.shape, mlir.dtype_to_ir_type(array.dtype))
            for array in (*inputs, *outputs)
        ]
    if [*main.type.inputs, *main.type.results] != expected:
        raise ValueError(f"@main is {main.type}, and its arguments and results are {expected}")


def signature(
    module: ir.Module, name: str = "main"
) -> tuple[tuple[jax.ShapeDtypeStruct, ...], tuple[jax.ShapeDtypeStruct, ...]]:
    """Shapes and dtypes of what a function of a module takes and gives."""
    function = _function(module, name)
    with module.context, ir.Location.unknown():
        dtypes = {str(mlir.dtype_to_ir_type(np.dtype(dtype))): dtype for dtype in _dtypes()}
    inputs, outputs = (
        tuple(jax.ShapeDtypeStruct(ty.shape, dtypes[str(ty.element_type)]) for ty in types)
        for types in (function.type.inputs, function.type.results)
    )
    return inputs, outputs


def _dtypes() -> list[np.dtype]:
    """All that JAX has a type of MLIR for."""
    names = [
        "bool",
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (2, 4, 8, 16, 32, 64)),
        *("bfloat16", "float16", "float32", "float64", "complex64", "complex128"),
        *(name for name in vars(ml_dtypes) if name.startswith("float")),
    ]
    return [np.dtype(getattr(ml_dtypes, name, name)) for name in names]


def _main(module: ir.Module) -> func.FuncOp:
    return _function(module, "main")


def _function(module: ir.Module, name: str) -> func.FuncOp:
    (function,) = (op for op in module.body.operations if op.attributes["sym_name"].value == name)
    assert isinstance(function, func.FuncOp)
    return function


def _shapes(*avals, program: FusedProgram):
    if any(map(jax_internals.varying_axes, avals)):
        raise NotImplementedError(
            "a metagradient inside of jax.shard_map was given values that differ from device to "
            "device, and its derivative there would leave out what devices share. Call it outside "
            "of shard_map, with arrays that are sharded; or give shard_map check_vma=False, and "
            "add up over devices yourself."
        )
    like = {result: operand for operand, result in program.gradients.of_input.items()}
    like |= program.gradients.like_input
    results = placements.result_types(program.outputs, like, avals)
    return results, {debug_effect} if program.callbacks else set()


def _run(*arrays, program: FusedProgram):
    return program.jitted(*arrays)


def _lower(platform: str | None, ctx, *operands, program: FusedProgram):
    target = ctx.module_context
    with target.module.context:
        module = ir.Module.parse(program.bytecode(platform or program.platform))
        if program.callbacks:
            host_calls.add(module, program.callbacks, ctx)
        results = _main(module).type.results
        name = mlir.merge_mlir_modules(
            target.module, "metagradient", module, dst_symtab=target.symbol_table
        )
        return func.CallOp(results, ir.FlatSymbolRefAttr.get(name), list(operands)).results


for _primitive in PRIMITIVES:
    _primitive.multiple_results = True
    _primitive.def_effectful_abstract_eval(_shapes)
    _primitive.def_impl(_run)
    for _platform in (None, "cpu", "cuda", "rocm", "tpu"):
        mlir.register_lowering(
            _primitive,
            functools.partial(_lower, _platform),
            platform=_platform,
            cacheable=_primitive is fused_p,
        )
