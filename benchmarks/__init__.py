"""Times metagradients of whole training runs: metagrad against what people write by hand.

`python -m benchmarks` runs it; README.md says how it is measured.
"""
