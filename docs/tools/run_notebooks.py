"""Runs the notebooks of docs/notebooks and saves them with their results.

python docs/tools/run_notebooks.py [NAME ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"


def execute(path: Path, seconds: int = 300) -> nbformat.NotebookNode:
    """The notebook with what its cells print and show, run in a kernel of its own.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=seconds,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],
    )
    return client.execute(cwd=str(path.parent))


def texts(notebook: nbformat.NotebookNode) -> list[str]:
    """What each cell of code printed or returned as text; "<picture>" for a picture."""
    return ["".join(map(_text, cell.outputs)) for cell in notebook.cells if "outputs" in cell]


def _text(output: nbformat.NotebookNode) -> str:
    if output.output_type == "stream":
        return output.text
    return "<picture>\n" if "image/png" in output.data else output.data["text/plain"]


def main(names: list[str]) -> None:
    for path in sorted(FOLDER.glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        notebook = execute(path)
        # Which Python and kernel ran it is of no interest to the next one.
        notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"]}
        nbformat.write(notebook, path)
        print(path.name)


if __name__ == "__main__":
    main(sys.argv[1:])
