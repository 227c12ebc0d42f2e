"""What XLA:CPU is bad at in what Enzyme writes: not wanted on a GPU."""
