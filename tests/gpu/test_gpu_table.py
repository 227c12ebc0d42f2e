"""The tables of what was compiled for a GPU, and run on one, are those of the results."""

import json
import pathlib

from benchmarks import gpu_page
from benchmarks.__main__ import RESULTS
from benchmarks.gpu_compile.markdown import lines


def test_the_readme_has_the_results():
    rows = json.loads((RESULTS / "gpu_compile.json").read_text())["rows"]
    readme = pathlib.Path(RESULTS.parent, "README.md").read_text()
    assert "\n".join(lines(rows)) in readme


def test_the_page_has_what_an_h100_measured():
    records = json.loads((RESULTS / "gpu.json").read_text())["records"]
    text = gpu_page.PAGE.read_text()
    assert gpu_page.page(text, records) == text
