"""Examples on real data: `python -m examples.NAME` runs one."""
