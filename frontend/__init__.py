"""From a JAX training step to one MLIR module with JAX's derivative semantics."""
