"""Programs compiled for an NVIDIA H100 on a machine that has none: `python -m
benchmarks.gpu_compile`."""
