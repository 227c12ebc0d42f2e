"""The tasks of MixFlow-MG and the table of who computes their metagradients, in what memory and
time: `python -m benchmarks.mixflow`."""
