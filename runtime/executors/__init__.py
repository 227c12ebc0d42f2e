"""Executors: programs in, arrays out."""
