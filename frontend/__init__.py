"""JAX in, MLIR out: the decorator, `grad`, and the lowering that keeps JAX's derivative semantics."""
