"""Scores as a table: its order, its predictions, its files."""

import dataclasses
import sys

import numpy as np
import pytest

from metagrad.attribution import Retrained, Scores


def scores(tokens=()):
    random = np.random.default_rng(0)
    values = random.normal(size=(2, 4, *tokens))
    weights = np.full((4, *tokens), 2.0)
    return Scores(values, np.array([1.0, -1.0]), weights, "metagradient", {"seconds": 1.5})


def test_the_top_examples():
    values = np.array([[3.0, -2.0, 0.5, -4.0], [0.0, 0.0, 0.0, 8.0]])
    table = Scores(values, np.zeros(2), np.ones(4), "metagradient")
    assert table.top(2, query=0) == [(3, -4.0), (1, -2.0)]
    assert table.top(1, query=0, order="raises") == [(0, 3.0)]
    assert table.top(2, query=0, order="absolute") == [(3, -4.0), (0, 3.0)]
    assert table.top(1, order="raises") == [(3, 2.0)]
    assert len(table.top(9, query=-1)) == 4


def test_predicts_to_first_order():
    table = scores()
    subsets = np.array([[1, 1, 1, 1], [0, 1, 1, 1], [0, 0.5, 1, 1]])
    first, second = table.values[:, 0], table.values[:, 1]
    want = [table.outcomes, table.outcomes - 2 * first, table.outcomes - 2 * first - second]
    np.testing.assert_allclose(table.predict(subsets), want)


def test_an_example_is_the_sum_of_its_tokens():
    table = scores((3,))
    np.testing.assert_allclose(table.of_examples(), 2 * table.values.sum(-1))


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("tokens", [(), (3,)], ids=["examples", "tokens"])
def test_comes_back_from_a_file(tmp_path, suffix, tokens):
    table, path = scores(tokens), tmp_path / f"scores.{suffix}"
    table.save(path)
    loaded = Scores.load(path)
    for field in dataclasses.fields(Scores):
        np.testing.assert_equal(getattr(loaded, field.name), getattr(table, field.name))
    assert loaded.values.dtype == table.values.dtype
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_the_file_is_plain_npz(tmp_path):
    scores().save(tmp_path / "scores.npz")
    with np.load(tmp_path / "scores.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["values"], scores().values)


def test_retrained_comes_back_from_a_file(tmp_path):
    table = Retrained(np.eye(3, 5, dtype=bool), np.ones((3, 2)), np.zeros(2), 0.5)
    for name in ("trainings.npz", "trainings.safetensors"):
        table.save(tmp_path / name)
        loaded = Retrained.load(tmp_path / name)
        for field in dataclasses.fields(Retrained):
            np.testing.assert_array_equal(getattr(loaded, field.name), getattr(table, field.name))
        assert loaded.subsets.dtype == bool


def test_says_what_is_wrong(tmp_path, monkeypatch):
    table = scores()
    with pytest.raises(ValueError, match=r"subsets has the shape \(4,\); it must be \[m, 4\]"):
        table.predict(np.ones(4))
    with pytest.raises(ValueError, match="order='up' is none of 'lowers', 'raises', 'absolute'"):
        table.top(order="up")
    with pytest.raises(ValueError, match="k=0"):
        table.top(0)
    with pytest.raises(ValueError, match="query=2, and there are 2 queries"):
        table.top(query=2)
    with pytest.raises(ValueError, match=r"values has the shape \(2, 4\)"):
        Scores(table.values, table.outcomes, np.ones(5), "metagradient")
    with pytest.raises(ValueError, match=r"must end in \.npz or \.safetensors"):
        table.save(tmp_path / "scores.pkl")
    np.savez(tmp_path / "other.npz", values=np.ones(2))
    with pytest.raises(ValueError, match=r"other\.npz has no metadata of metagrad\.attribution"):
        Scores.load(tmp_path / "other.npz")
    Retrained(np.eye(3), np.ones((3, 2)), np.zeros(2)).save(tmp_path / "trainings.npz")
    with pytest.raises(ValueError, match=r"does not hold scores, but subsets, outcomes, full"):
        Scores.load(tmp_path / "trainings.npz")
    table.save(tmp_path / "scores.npz")
    with pytest.raises(ValueError, match="does not hold trainings, but values"):
        Retrained.load(tmp_path / "scores.npz")
    with pytest.raises(ValueError, match=r"they must be \[m, Q\], \[m, n\] and \[Q\]"):
        Retrained(np.eye(3), np.ones((2, 2)), np.zeros(2))
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r'pip install "metagrad\[examples\]"'):
        table.save(tmp_path / "scores.safetensors")
