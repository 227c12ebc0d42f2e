"""Executors: programs in, arrays out."""

from metagrad.runtime.executors import first_order as first_order  # JAX gets its rules
