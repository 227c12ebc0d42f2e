"""MLIR in, MLIR out: the passes, the schedules and their native planner, and the Enzyme worker."""
