"""Notebooks as pages: their text, code and saved results, by nbconvert. Nothing is run."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

_STREAM = re.compile(r"(?:^ {4}.*\n(?:\n(?= {4}))?)+", re.MULTILINE)


def pages(config: MkDocsConfig, notebook: File) -> Iterator[File]:
    """The page of a notebook, and the pictures that it shows."""
    path = Path(notebook.abs_src_path or "")
    page = notebook.src_uri.removesuffix(".ipynb") + ".md"
    folder, name = posixpath.dirname(page), path.stem
    content = nbformat.read(path, as_version=4)
    text, resources = MarkdownExporter().from_notebook_node(
        content, resources={"output_files_dir": name}
    )
    for file_name, data in resources["outputs"].items():
        yield File.generated(config, f"{folder}/{file_name}", content=data)
    note = f"This page is the notebook `docs/{notebook.src_uri}`, which a test runs.\n"
    yield File.generated(config, page, content=f"{_with_blocks(text)}\n\n---\n\n{note}")


def _with_blocks(text: str) -> str:
    """What was printed, in a fenced block like the code above it."""

    def fenced(match: re.Match) -> str:
        lines = [line.removeprefix("    ") for line in match.group(0).rstrip().split("\n")]
        return "\n".join(["```text", *lines, "```", ""])

    parts = re.split(r"^(```.*?^```)$", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if i % 2 else _STREAM.sub(fenced, part) for i, part in enumerate(parts))
