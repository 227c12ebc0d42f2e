"""Enzyme's library: the process that it runs in, and the cache of what it made."""
