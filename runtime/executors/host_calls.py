"""Programs that call the host (prints, pure callbacks).

A module names a host function by an index into a list, which belongs to the module around the call
and is known only to the process that lowers it. So each lowering of such a program adds its
functions to that list, and shifts the indices in the module to where the functions came to stand.

Such a program cannot be stored, since its functions are this process's. `jax.export` says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from jax.interpreters import mlir
from jaxlib.mlir import ir

_TARGET = re.compile(r"xla_ffi(_partitioned)?_python_(cpu|gpu)_callback")


def check(module: ir.Module, callbacks: Sequence[Callable], platform: str) -> None:
    """Refuses host functions where they cannot be called.

    Raises:
      NotImplementedError: the module is for a platform that has no such index (TPUs call the host
          through channels).
    """
    if callbacks and not _calls(module):
        raise NotImplementedError(
            "calls of the host (jax.debug.print, jax.pure_callback) are for CPUs and GPUs, "
            f"not for {platform}"
        )


def calls_host(module: ir.Module) -> bool:
    """Whether a module calls host functions."""
    return bool(_calls(module))


def add(module: ir.Module, callbacks: Sequence[Callable], ctx: mlir.LoweringRuleContext) -> None:
    """Adds the host functions to the module that is being lowered, and shifts the indices.

    Of several devices the first prints, and prints whole values. Inside of `shard_map` each prints
    its own.
    """
    devices = getattr(ctx.module_context.axis_context, "num_devices", None) or 1
    if devices > 1:
        for op in filter(_prints, _calls(module)):
            mesh = _OF_EACH_DEVICE if _is_in_shard_map(op) else _OF_THE_FIRST_DEVICE
            sharding = f"#sdy.sharding_per_value<[<{mesh}, []>]>"
            op.attributes["sdy.sharding"] = ir.Attribute.parse(sharding, module.context)
    first = len(ctx.module_context.host_callbacks)
    for callback in callbacks:
        ctx.module_context.add_host_callback(callback)
    for op in _calls(module):
        config = ir.DictAttr(op.attributes["mhlo.backend_config"])
        index = ir.IntegerAttr(config["index"])
        # jaxlib's annotations leave out that such a dictionary can be walked.
        moved = {named.name: named.attr for named in config} | {  # type: ignore[attr-defined]
            "index": ir.IntegerAttr.get(index.type, index.value + first)
        }
        op.attributes["mhlo.backend_config"] = ir.DictAttr.get(moved)


_OF_THE_FIRST_DEVICE, _OF_EACH_DEVICE = "mesh<[], device_ids=[0]>", "mesh<[]>"
"""The meshes that JAX writes on a print that is lowered for several devices."""


def _prints(op: ir.Operation) -> bool:
    return "has_side_effect" in op.attributes


def _is_in_shard_map(op: ir.Operation) -> bool:
    parent = op.parent
    while parent is not None and parent.name != "sdy.manual_computation":
        parent = parent.parent
    return parent is not None


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
