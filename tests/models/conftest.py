"""Shampoo is a benchmark's too, which is not a part of the package: the tree's root is needed."""

import pathlib
import sys

ROOT = str(pathlib.Path(__file__).parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)
