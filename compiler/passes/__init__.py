"""One pass, one file. `registry` has all of them, and their order."""
