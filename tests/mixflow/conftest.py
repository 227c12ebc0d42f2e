"""The benchmarks are not a part of the package: the tree's root has to be on the path."""

import pathlib
import sys

ROOT = str(pathlib.Path(__file__).parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)
