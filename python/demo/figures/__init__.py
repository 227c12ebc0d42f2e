"""The demo's plots, one per file: each is a function from plain data to a matplotlib Figure. No
window system is used.
"""
