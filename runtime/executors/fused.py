"""A StableHLO module of ours as a JAX callable: a `jax.export.Exported` whose module is replaced.

Only public API is used: the result composes with `jax.jit`, serialises, and runs where no compiler
is installed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import export
from jax.extend.mlir import serialize_portable_artifact
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo


def exported(
    module: ir.Module,
    inputs: Sequence[jax.ShapeDtypeStruct],
    outputs: Sequence[jax.ShapeDtypeStruct],
) -> export.Exported:
    """Wraps a module whose public function @main maps `inputs` to `outputs` (flat lists of arrays).

    Raises:
      ValueError: @main's signature is not that of `inputs` and `outputs`.
    """

    def signature(*arrays):
        return [jnp.zeros(out.shape, out.dtype) for out in outputs]

    template = export.export(jax.jit(signature, keep_unused=True))(*inputs)
    return dataclasses.replace(template, mlir_module_serialized=serialized(module), _get_vjp=no_vjp)


def serialized(module: ir.Module) -> bytes:
    """The module as an `Exported` holds it."""
    with module.context:
        target = hlo.get_version_from_compatibility_requirement(
            hlo.StablehloCompatibilityRequirement.WEEK_4
        )
        return serialize_portable_artifact(module, target, False)


def no_vjp(program: export.Exported):
    # The template's own VJP is that of a function of zeros: it must not answer in the module's
    # place.
    raise NotImplementedError(
        "a metagradient cannot be differentiated again. Its `grad` is the derivative of its "
        "`value`; for `jax.grad` of a function around it, use jax.custom_vjp, or take the "
        "metagradient of that function as the outer function."
    )
