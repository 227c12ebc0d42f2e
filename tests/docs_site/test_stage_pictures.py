"""The pictures of the stages are those of the compiler as it is."""

import re
import sys
from pathlib import Path

import pytest

from metagrad.compiler import pipeline

DOCS = Path(__file__).parent.parent.parent / "docs"

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS / "tools"))
        import draw_stages

        draw_stages.main(folder)
    del sys.modules["draw_stages"]
    return folder


def labels(picture: Path) -> list[str]:
    """The texts of a picture, but counts of operations, which depend on JAX's version."""
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", picture.read_text(encoding="utf-8"))
    return sorted(text for text in texts if not re.fullmatch(r"\d+ operations?", text))


@pytest.mark.parametrize("stage", pipeline.STAGES)
def test_a_picture_shows_the_functions_of_its_stage(drawn, stage):
    now = labels(drawn / f"{stage}.svg")
    assert any(label.startswith("@") for label in now)
    assert labels(DOCS / "stages" / f"{stage}.svg") == now, "run docs/tools/draw_stages.py"


def test_the_legend(drawn):
    assert labels(DOCS / "stages" / "legend.svg") == labels(drawn / "legend.svg")
    assert len(labels(drawn / "legend.svg")) == 4


def test_the_page_shows_each():
    page = (DOCS / "stages.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == [*pipeline.STAGES, "hlo"]
    assert all(f"stages/{stage}.svg" in page for stage in pipeline.STAGES)
