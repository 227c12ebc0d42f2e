"""Executors: programs in, arrays out."""

# JAX gets its rules for the operation of fused.py.
from metagrad.runtime.executors import first_order as first_order
from metagrad.runtime.executors import many_runs as many_runs
