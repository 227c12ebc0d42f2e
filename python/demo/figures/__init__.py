"""The demo's plots, one per file: each is a function from plain data to a matplotlib Figure.

They use no window system.
"""
