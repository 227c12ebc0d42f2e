"""A program that calls the host (prints, pure callbacks).

It is an `Exported` whose host functions travel beside it. An exported module names a host function
by an index into a list, which belongs to the module around the call and is known only to the
process that lowers it. So each lowering of such a program adds its functions to that list, and
shifts the indices in the module to where the functions came to stand.

A program that does not call the host needs none of this. One that does cannot be stored, since its
functions are this process's.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence

import jax
from jax import export
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir
from jaxlib.mlir import ir

from metagrad.runtime.executors.fused import exported, no_vjp, serialized
from metagrad.runtime.jax_internals import debug_effect, ir_context

_TARGET = re.compile(r"xla_ffi(_partitioned)?_python_(cpu|gpu)_callback")


def program(
    module: ir.Module,
    inputs: Sequence[jax.ShapeDtypeStruct],
    outputs: Sequence[jax.ShapeDtypeStruct],
    callbacks: Sequence[Callable],
) -> export.Exported | HostCalling:
    """`fused.exported`, with the host functions that the module calls, if it calls any.

    Raises:
      NotImplementedError: the module is for a platform that has no such index (TPUs call the host
          through channels).
    """
    fused = exported(module, inputs, outputs)
    if not callbacks:
        return fused
    with module.context:
        if not any(_calls(module)):
            raise NotImplementedError(
                "calls of the host (jax.debug.print, jax.pure_callback) are for CPUs and GPUs, "
                f"not for {', '.join(fused.platforms)}"
            )
    return HostCalling(fused, tuple(callbacks))


@dataclasses.dataclass(frozen=True, eq=False)
class HostCalling:
    """A program and the host functions that it calls.

    Attributes:
      exported: the program.
      callbacks: the functions, by the index in the program's calls.
    """

    exported: export.Exported
    callbacks: tuple[Callable, ...]

    def call(self, *arrays):
        """What `Exported.call` does."""
        return host_calling_p.bind(*arrays, program=self)

    def serialize(self, *_, **__):
        raise NotImplementedError(
            "a program that calls the host (jax.debug.print, jax.pure_callback) cannot be stored: "
            "the functions that it calls are this process's. Take the calls out of the step and of "
            "the outer function before exporting it."
        )


host_calling_p = Primitive("metagrad_host_calling")
host_calling_p.multiple_results = True


@host_calling_p.def_effectful_abstract_eval
def _shapes(*avals, program: HostCalling):
    return list(program.exported.out_avals), {debug_effect}


@host_calling_p.def_impl
def _run(*arrays, program: HostCalling):
    return jax.jit(program.call)(*arrays)


def _lower(ctx: mlir.LoweringRuleContext, *operands, program: HostCalling):
    first = len(ctx.module_context.host_callbacks)
    for callback in program.callbacks:
        ctx.module_context.add_host_callback(callback)
    shifted = _shifted(program.exported, first) if first else program.exported
    return mlir.lower_fun(shifted.call)(ctx, *operands)


def _shifted(program: export.Exported, first: int) -> export.Exported:
    """The program with the indices of its calls moved by `first`."""
    with ir_context(), ir.Location.unknown():
        module = ir.Module.parse(str(program.mlir_module()))
        for op in _calls(module):
            config = ir.DictAttr(op.attributes["mhlo.backend_config"])
            index = ir.IntegerAttr(config["index"])
            # jaxlib's annotations leave out that such a dictionary can be walked.
            moved = {named.name: named.attr for named in config} | {  # type: ignore[attr-defined]
                "index": ir.IntegerAttr.get(index.type, index.value + first)
            }
            op.attributes["mhlo.backend_config"] = ir.DictAttr.get(moved)
        return dataclasses.replace(program, mlir_module_serialized=serialized(module))


def _calls(module: ir.Module) -> list[ir.Operation]:
    calls: list[ir.Operation] = []

    def visit(op: ir.Operation) -> ir.WalkResult:
        if op.name == "stablehlo.custom_call" and _TARGET.fullmatch(
            ir.StringAttr(op.attributes["call_target_name"]).value
        ):
            calls.append(op)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return calls


def _refuse_derivative(primals, tangents, *, program: HostCalling):
    no_vjp(program.exported)


ad.primitive_jvps[host_calling_p] = _refuse_derivative
# Each lowering has its own functions in the list, so one must not be found in another's cache.
mlir.register_lowering(host_calling_p, _lower, cacheable=False)
