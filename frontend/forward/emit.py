"""From a run in forward mode to one MLIR module, whose @main is the whole program."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
from jax.extend import core
from jax.interpreters import mlir
from jaxlib.mlir import ir

from metagrad.compiler.dialect import captured, placements
from metagrad.frontend import leaked_values, prints
from metagrad.frontend.captured import Captured
from metagrad.frontend.emit_mlir import Traced
from metagrad.frontend.forward.run import NotForward
from metagrad.frontend.jaxprs.auto_axes import without_sharding
from metagrad.frontend.jaxprs.lines import lines_of_custom_vjps
from metagrad.runtime import jax_internals


def lower_program(
    program: Callable[..., list], avals: Sequence, arrays: Captured, platform: str
) -> Traced:
    """Lowers a function of flat lists of arrays.

    Derivatives print nothing; what the plain functions print is in the program apart.

    Args:
      program: (state, meta, batches, outer arguments) -> results, of lists. Large constants of
        what it calls are in `arrays`.
      avals: a list for each of these groups.
      arrays: they become the last arguments of @main when the module is finished.
      platform: what the program is for, as JAX calls it.

    Raises:
      NotForward: a tangent goes through a custom_vjp function.
    """
    muted: list[str] = []
    # Behind auto_axes.py no type has a sharding; XLA's partitioner finds where values lie.
    avals = [list(map(without_sharding, group)) for group in avals]
    traced = jax.jit(lambda *groups: program(*groups), keep_unused=True).trace(*avals)
    _check_rules(traced.jaxpr.jaxpr)
    with leaked_values.lowering():
        lowered = jax_internals.lower_with_rules(traced, prints.mute(muted), platform)
    module: ir.Module = lowered.compiler_ir("stablehlo")  # type: ignore[assignment]
    module.context.allow_unregistered_dialects = True
    with module.context, ir.Location.unknown():
        placements.hide(module)
        placements.show(module)
        captured.list_types(
            module,
            [
                ir.RankedTensorType.get(aval.shape, mlir.dtype_to_ir_type(aval.dtype))
                for aval in arrays.avals()
            ],
        )
        module.operation.attributes["sym_name"] = ir.StringAttr.get("metagrad")
    return Traced(module, jax_internals.host_callbacks(lowered), muted)


def _check_rules(jaxpr: core.Jaxpr) -> None:
    """Refuses a custom_vjp function that a tangent goes through."""
    if lines := lines_of_custom_vjps(jaxpr):
        raise NotForward(
            f"mode='forward': a tangent goes through a custom_vjp function ({'; '.join(lines)}), "
            "which has a rule for reverse mode alone. Use mode='reverse', or give it a custom_jvp."
        )
