"""Exported runs: the file that holds one, and what is done before anything in it is trusted."""
