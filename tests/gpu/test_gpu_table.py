"""The table of what was compiled for a GPU is that of the results."""

import json
import pathlib

from benchmarks.__main__ import RESULTS
from benchmarks.gpu_compile.markdown import lines


def test_the_readme_has_the_results():
    rows = json.loads((RESULTS / "gpu_compile.json").read_text())["rows"]
    readme = pathlib.Path(RESULTS.parent, "README.md").read_text()
    assert "\n".join(lines(rows)) in readme
