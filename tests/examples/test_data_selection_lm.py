"""Data selection for a language model, on a run made short."""

import json

import jax
import numpy as np
import pytest

from examples import language_model
from examples.data_selection_lm import problem as problems
from examples.data_selection_lm import run, selectors


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(language_model, "LAYERS", 1)
    sizes = {"STEPS": 6, "BATCH": 8, "VALIDATION": 16, "TEST": 16, "LATE": (-1,)}
    for name, value in sizes.items():
        monkeypatch.setattr(problems, name, value)
    monkeypatch.setattr(problems, "POOLS", {"mixed": {"manual": 16, "unicode_names": 16}})
    monkeypatch.setattr(selectors, "PARTS", (0.5,))


def test_whole_example(small, monkeypatch, tmp_path):
    few = language_model._modules(1)
    monkeypatch.setattr(language_model, "_modules", lambda: few)
    monkeypatch.setattr(
        language_model, "pretrained", lambda *_: language_model.initial(jax.random.key(0))
    )
    arguments = ["--seeds", "2", "--rounds", "8", "--pools", "mixed", "--out", str(tmp_path)]
    summary = run.main(arguments)
    ways = {"not fine-tuned", "all data", "the manual's pieces", "random"}
    assert set(summary["mixed"]) == ways | {"gradient similarity", "metagradients"}
    record = json.loads((tmp_path / "results.json").read_text())
    for rows in record["seeds"]["mixed"]:
        assert rows["gradient similarity"]["counts"]["manual"] > 12  # of 16; by chance 8
        counts = rows["metagradients"]["counts"]
        assert counts["manual"] > counts["unicode_names"]
        assert len(rows["metagradients"]["rounds"]) == 8
    assert (tmp_path / "selection.png").stat().st_size > 5000


def test_the_target_shares_no_piece_with_the_pool(small):
    problem = problems.make(None, "mixed", 3)
    parts = [problem.pool[:16], problem.validation, problem.test]
    places = [{bytes(np.asarray(piece)) for piece in part} for part in parts]
    # Lines of the manual that come up more than once may be in both.
    assert len(places[0] & (places[1] | places[2])) <= 1
    assert sorted(set(problem.domain)) == ["manual", "unicode_names"]


def test_random_choice_and_similarity_take_the_part_asked_for(small):
    problem = problems.make(None, "mixed", 0)
    assert selectors.random(problem, 0.25).sum() == 8
    assert selectors.one_domain(problem).sum() == 16
    chosen = selectors.most_similar(problem, np.arange(32.0), 0.125)
    assert np.flatnonzero(chosen).tolist() == [28, 29, 30, 31]
