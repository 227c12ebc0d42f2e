"""Analyses of the IR. None of them changes it."""
