"""What mkdocs does beside its own: the events of the site's build.

- A link to a file outside docs/, which works where the repository is read, becomes a link to a page
  that is made of that file (links.py).
- A notebook is shown with the results that it was saved with (notebooks.py).
- `<!-- README: Heading -->` is replaced by that part of the README (readme.py), and
  `<!-- Title: file.py section -->` by that section of a program (programs.py).
- `<!-- names of metagrad.attribution -->` is replaced by a line for each public name of that module
  (public_names.py).
- An example with prompts (`>>>`) is coloured as a session.

Everything is made of files of this repository. Nothing is fetched.
"""

from __future__ import annotations

from pathlib import Path

import links
import notebooks
import programs
import public_names
import readme
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent.parent

_SESSIONS = {
    "```python\n>>>": "```pycon\n>>>",
    "```\n>>>": "```pycon\n>>>",
    "\n<BLANKLINE>\n": "\n\n",
}
"""Doctests as a page shows them."""

_SITE = links.Site(ROOT, Path("docs"))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made of other files."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(notebook)
        for file in notebooks.pages(config, notebook):
            files.append(file)
    texts = {
        Path("docs", file.src_uri): readme.with_sections(ROOT, file.content_string)
        for file in files.documentation_pages()
    }
    for file in _SITE.sources(config, texts):
        file.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(file)
    return files


def on_page_markdown(markdown: str, /, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The text of a page, with the README's parts, links within the site, and coloured sessions."""
    markdown = programs.with_programs(ROOT / "docs", readme.with_sections(ROOT, markdown))
    markdown = public_names.with_names(markdown)
    for written, shown in _SESSIONS.items():
        markdown = markdown.replace(written, shown)
    return _SITE.with_links(markdown, page.file.src_uri)
