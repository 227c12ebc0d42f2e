"""The two programs of docs/by_hand.md give the same numbers."""

import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

FOLDER = Path(__file__).parent.parent.parent / "docs" / "by_hand"


@pytest.fixture(scope="module")
def results():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        return [runpy.run_path(str(FOLDER / name)) for name in ("plain_jax.py", "with_metagrad.py")]


@pytest.mark.parametrize("name", ["value", "grad", "state"])
def test_both_give_the_same(results, name):
    plain, ours = (jax.tree.leaves(result[name]) for result in results)
    for of_plain, of_ours in zip(plain, ours, strict=True):
        of_plain, of_ours = np.asarray(of_plain), np.asarray(of_ours)
        scale = np.abs(of_plain).max()
        assert scale > 0
        np.testing.assert_allclose(of_ours, of_plain, rtol=0, atol=2e-4 * scale)


def test_they_are_the_same_step_line_by_line():
    """But for the two lines that differ by design."""
    steps = []
    for name in ("plain_jax.py", "with_metagrad.py"):
        text = (FOLDER / name).read_text()
        step = text.partition("# --- step ---")[2].partition("# --- run ---")[0]
        steps.append({line for line in step.splitlines() if line.strip()})
    plain, ours = steps
    assert plain - ours == {
        "# one Adam step on weighted examples",
        "    gradient = jax.grad(loss)(params)",
    }
    assert ours - plain == {"@metagrad.compile", "    gradient = metagrad.grad(loss)(params)"}
