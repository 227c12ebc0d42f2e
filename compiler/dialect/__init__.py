"""The IR that the passes work on: the metagrad dialect, Enzyme's ops, functions, loops, matching."""
