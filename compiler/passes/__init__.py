"""One pass, one file. compiler/pipeline.py has all of them, in their order."""
