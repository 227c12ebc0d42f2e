"""Metagradients of whole training runs, timed: metagrad against what people write by hand. `python
-m benchmarks`; README.md says how it is counted.
"""
