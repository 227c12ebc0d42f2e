"""The examples of attribution, on runs made short."""

import ast
import json

import jax
import numpy as np
import optax
import pytest

from examples import language_model
from examples.attribution_digits import model, run
from examples.attribution_transformer import problem as transformer_problem
from examples.attribution_transformer import run as transformer_run
from metagrad import attribution


def test_digits(monkeypatch, tmp_path, capsys):
    for name, value in {"EXAMPLES": 60, "QUERIES": 4, "STEPS": 20, "BATCH": 20}.items():
        monkeypatch.setattr(model, name, value)
    monkeypatch.setattr(model, "RUNS", {"smooth": model.RUNS["smooth"]})
    monkeypatch.setattr(run, "KEPT", {"95% kept": 0.95})
    run.main(["--seeds", "1", "--subsets", "12", "--out", str(tmp_path)])
    record = json.loads((tmp_path / "results.json").read_text())
    rows = record["runs"]["smooth"]
    scores = {name: row["95% kept"]["lds"] for name, row in rows.items()}
    assert scores["metagradient"] > 0.95
    assert max(scores.values()) == scores["metagradient"]
    assert all(row["trainings"] > 0 for row in rows.values())
    assert "--subsets 12" in record["command"]
    assert (tmp_path / "lds.png").stat().st_size > 5000
    assert "| metagradient |" in capsys.readouterr().out


@pytest.fixture
def small_transformer(monkeypatch):
    monkeypatch.setattr(language_model, "LAYERS", 1)
    monkeypatch.setattr(transformer_problem, "OPTIMIZER", optax.sgd(0.02))
    sizes = {"EXAMPLES": 24, "QUERIES": 2, "STEPS": 8, "BATCH": 6, "CHECKPOINTS": 2}
    for name, value in sizes.items():
        monkeypatch.setattr(transformer_problem, name, value)
    return language_model.initial(jax.random.key(0))


def test_transformer(small_transformer, monkeypatch):
    problem = transformer_problem.make(small_transformer, 0)
    every = transformer_run.methods
    monkeypatch.setattr(
        transformer_run,
        "methods",
        lambda problem: {name: every(problem)[name] for name in ("metagradient", "TracIn")},
    )
    monkeypatch.setattr(transformer_run, "KEPT", {"80% kept": 0.8})
    comparison = transformer_run.compare(problem, 10, 0)
    assert comparison.rows[0].lds["80% kept"].value > 0.95
    explained = transformer_run.explain(problem)
    assert language_model.encode(explained["query"]).tolist() == problem.queries[0].tolist()
    best = explained["helpful"][0]
    assert np.sum(best["characters"]) == pytest.approx(best["score"], abs=1e-5)
    assert best["score"] < 0


def test_the_texts_are_there(monkeypatch):
    few = language_model._modules(2)
    monkeypatch.setattr(language_model, "_modules", lambda: few)
    for text in (language_model.manual, language_model.docstrings, language_model.code):
        pieces = language_model.sequences(text(), 0)
        assert pieces.shape[1] == 33
        assert len(pieces) > 500
    assert "LATIN SMALL LETTER A\n" in language_model.unicode_names()
    assert language_model.decode(language_model.encode("a\nB é")) == "a\nB ?"


def test_code_has_no_docstrings():
    source = '"""Module."""\ndef f():\n    """Alone."""\ndef g(x):\n    "Two."\n    return "x"'
    left = ast.unparse(language_model._without_docstrings(ast.parse(source)))
    assert left == "def f():\n    pass\n\ndef g(x):\n    return 'x'"


def test_the_language_model_looks_back_only():
    params = language_model.initial(jax.random.key(0))
    pieces = language_model.sequences("abcdefgh" * 9, 0)[:1]
    changed = pieces.copy()
    changed[:, 20] = 5
    a, b = (
        np.asarray(language_model.logits(params, tokens[:, :-1])) for tokens in (pieces, changed)
    )
    np.testing.assert_array_equal(a[:, :20], b[:, :20])
    assert not np.allclose(a[:, 20:], b[:, 20:])
    trained = language_model.pretrained(["abcdefgh" * 99], steps=30, batch=4)
    assert language_model.losses(trained, pieces)[0] < language_model.losses(params, pieces)[0]


def test_the_report_merges_seeds():
    from examples import attribution_report

    def comparison(value):
        score = attribution.LDS(value, (value - 0.1, value + 0.1), np.array([value]), 0.95)
        row = attribution.comparison.Row("m", 2.0, 4.0 * value, {"half": score}, {"half": 1.0})
        return attribution.Comparison((row,), 0.5)

    merged = attribution_report.over_seeds([comparison(0.25), comparison(0.75)])
    assert merged["m"]["trainings"] == 2
    half = merged["m"]["half"]
    assert (half["lds"], half["lowest"], half["highest"]) == (0.5, 0.25, 0.75)
    assert half["interval"] == pytest.approx([0.4, 0.6])
    assert "| m | 2.0 | 0.500 [0.40, 0.60] |" in attribution_report.table(merged)
