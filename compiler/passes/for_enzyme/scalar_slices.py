"""Takes away slices of scalars, which are the scalar.

    %r = dynamic_slice %x                                  ->    %x
    %r = dynamic_update_slice %x, %u                       ->    %u           for %x: tensor<f32>

JAX makes them when it transposes one into the other. Without sizes and indices the ops print as
text that MLIR does not read, and Enzyme gets text.
"""

from __future__ import annotations

from jaxlib.mlir import ir

from metagrad.compiler.dialect.matching import operations, replace

NAME = "scalar-slices"


def run(module: ir.Module) -> None:
    for name, same in (("dynamic_slice", 0), ("dynamic_update_slice", 1)):
        for op in operations(module, name):
            if not op.results[0].type.shape:
                replace(op, op.operands[same])
