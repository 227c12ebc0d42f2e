"""Links to files outside docs/, and the pages that the site has in their place."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File

_LINK = re.compile(r"\]\((?![a-z]+:|#|/)([^)#\s]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^(```.*?^```)$", re.DOTALL | re.MULTILINE)

NAMED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
}
"""Files outside docs/ that are pages of the navigation."""

_LANGUAGES = {".py": "python", ".cpp": "cpp", ".h": "cpp", ".c": "c", ".mlir": "text"}
_ASSETS = (".png", ".svg", ".jpg")


class Site:
    """The pages of the site, by the files of the repository that they are made of."""

    def __init__(self, root: Path, docs: Path):
        self._root, self._docs = root, docs
        self._origin: dict[str, PurePosixPath] = {}

    def sources(self, config: MkDocsConfig, texts: dict[Path, str]) -> Iterator[File]:
        """Files for what pages link to outside docs/, and for what these link to.

        Args:
          config: of the build.
          texts: the pages, by their paths in the repository.
        """
        self._origin = {}
        wanted = [PurePosixPath(name) for name in NAMED if name != "README.md"]
        for path, text in texts.items():
            wanted += self._outside(text, PurePosixPath(path))
        while wanted:
            path = wanted.pop()
            page = self._page_of(path)
            if page in self._origin or page == "index.md":
                continue
            self._origin[page] = path
            content = self._content(path)
            if isinstance(content, str):
                wanted += self._outside(content, path)
            yield File.generated(config, page, content=content)

    def with_links(self, markdown: str, page: str) -> str:
        """The text of a page with links to pages.

        Args:
          markdown: its text, with links as they work in the repository.
          page: its path in the site.
        """
        origin = self._origin.get(page, PurePosixPath(self._docs, page))

        def rewrite(match: re.Match) -> str:
            path = self._target(match.group(1), origin)
            if path is None:
                return match.group(0)
            target = posixpath.relpath(self._page_of(path), posixpath.dirname(page) or ".")
            return f"]({target}{match.group(2) or ''})"

        return _outside_of_fences(markdown, lambda text: _LINK.sub(rewrite, text))

    def _target(self, link: str, origin: PurePosixPath) -> PurePosixPath | None:
        """The file that a link means, if it has to be rewritten."""
        path = PurePosixPath(os.path.normpath(origin.parent / link))
        stays = self._is_page(path) and self._is_page(origin)
        return None if stays or not (self._root / path).exists() else path

    def _is_page(self, path: PurePosixPath) -> bool:
        """Whether the site has the file as it is. It leaves out the programs in docs/."""
        return path.is_relative_to(self._docs) and path.suffix != ".py"

    def _outside(self, text: str, origin: PurePosixPath) -> list[PurePosixPath]:
        """What a page links to outside docs/."""
        found = []
        for part in _FENCE.split(text)[::2]:
            for match in _LINK.finditer(part):
                path = self._target(match.group(1), origin)
                if path is not None and not self._is_page(path):
                    found.append(path)
        return found

    def _page_of(self, path: PurePosixPath) -> str:
        if self._is_page(path):
            return str(path.relative_to(self._docs))
        if str(path) in NAMED:
            return NAMED[str(path)]
        if (self._root / path).is_dir():
            return f"source/{path}/index.md"
        is_itself = path.suffix == ".md" or path.suffix in _ASSETS
        return f"source/{path}" if is_itself else f"source/{path}.md"

    def _content(self, path: PurePosixPath) -> str | bytes:
        """A page of a file: a text as it is, a program in a block, a folder as a list."""
        file = self._root / path
        if file.is_dir():
            names = sorted(child.name for child in file.iterdir() if child.name[0] not in "._")
            return "\n".join([f"# {path}", "", *(f"- `{name}`" for name in names), ""])
        if path.suffix in _ASSETS:
            return file.read_bytes()
        text = file.read_text(encoding="utf-8")
        if path.suffix == ".md":
            return text
        language = _LANGUAGES.get(path.suffix, "text")
        return f"# {path}\n\n````{language}\n{text}\n````\n"


def _outside_of_fences(markdown: str, change) -> str:
    parts = _FENCE.split(markdown)
    return "".join(part if i % 2 else change(part) for i, part in enumerate(parts))
