"""The example of two contrastive towers: its data, its loss, a short run, and its README."""

import json
import pathlib

import jax
import numpy as np
import pytest
from rich.console import Console

from examples.data_selection_contrastive import (
    contenders,
    data,
    filters,
    model,
    picture,
    retrieval,
    run,
)

FOLDER = pathlib.Path(run.__file__).parent


@pytest.fixture(scope="module")
def problem():
    return data.load(0)


class TestData:
    def test_parts_share_no_image(self, problem):
        intact = problem.pool.image[problem.kind != data.NOISY]
        parts = [intact, problem.clean.image, problem.test.image]
        rows = np.concatenate(parts)
        assert len(np.unique(rows, axis=0)) == len(rows)
        assert [len(part.image) for part in problem[:1] + problem[2:]] == [1297, 200, 300]

    def test_kinds_are_what_they_are_called(self, problem):
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        truth = dict(zip(map(bytes, (images / 16).astype(np.float32)), labels))
        pool, kind = problem.pool, problem.kind
        for image, meaning, one in zip(pool.image, pool.meaning, kind):
            if one in (data.GOOD, data.OFF_TARGET):
                assert truth[bytes(image)] == meaning // 4
                assert (one == data.GOOD) == (meaning // 4 in data.TARGET)
            assert (one == data.NOISY) <= (bytes(image) not in truth)
        assert set(np.concatenate([problem.clean.meaning, problem.test.meaning]) // 4) == {
            *data.TARGET
        }
        assert 0.35 < np.mean(kind == data.WRONG) <= data.WRONG_CAPTION

    def test_captions_say_what_is_meant(self, problem):
        words = {code: word for word, code in data.CODES.items()}
        for caption, meaning in zip(problem.clean.caption[:40], problem.clean.meaning):
            text = [words[code] for code in caption]
            assert {data.DIGITS[meaning // 4], str(meaning // 4)} & {*text}
            assert data.STROKES[meaning // 2 % 2] in text
            assert data.SLANTS[meaning % 2] in text


def test_the_losses_are_those_of_the_table(problem):
    params = model.initial(jax.random.key(0))
    few = data.Pairs(*(part[:50] for part in problem.clean))
    table = np.asarray(model.similarities(params, few.image, few.caption), np.float64)
    rows, columns = (np.exp(t) / np.exp(t).sum(1, keepdims=True) for t in (table, table.T))
    own = -np.log(np.diag(rows) * np.diag(columns)) / 2
    assert model.losses(params, few.image, few.caption) == pytest.approx(own, rel=1e-4)
    same = few.meaning[:, None] == few.meaning
    right = [-np.log((p * same).sum(1)).mean() for p in (rows, columns)]
    assert float(retrieval.loss(params, few)) == pytest.approx(np.mean(right), rel=1e-4)
    hits = [np.mean(few.meaning[t.argmax(1)] == few.meaning) for t in (table, table.T)]
    assert np.allclose(retrieval.recalls(params, few), hits)


def test_a_filter_keeps_the_best():
    assert filters.best_of(np.array([0.1, 3.0, 2.0, -1.0]), 0.5).tolist() == [0, 1, 1, 0]
    counts = filters.random_subset(1000, 3)
    assert 100 <= counts.sum() <= 1000
    assert set(counts) <= {0, 1}


def test_a_short_run(tmp_path, problem, monkeypatch):
    monkeypatch.setattr(filters, "MODELS", 1)
    monkeypatch.setattr(filters, "FRACTIONS", (0.5,))
    sizes = contenders.Sizes(rounds=7, one_step_rounds=0, random_subsets=1, tries=1, tests=2)
    results = run.run(1, sizes, tmp_path, Console(quiet=True), "a test")
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(results))
    picture.save(results, tmp_path / "selection.png")
    assert (tmp_path / "selection.png").stat().st_size < 150_000
    (seed,) = results["seeds"]
    assert seed["losses"][-1] < 0.9 * seed["losses"][0]
    pool, selected = (np.array(seed["rows"][name]["shares"]) for name in ("no filter", run.OURS))
    assert pool == pytest.approx(np.bincount(problem.kind) / len(problem.kind))
    assert selected[data.GOOD] > 1.2 * pool[data.GOOD]
    assert selected[data.WRONG] < 0.8 * pool[data.WRONG]
    recalls = {name: np.mean(row["alone"]) for name, row in seed["rows"].items()}
    assert recalls[run.OURS] > recalls["no filter"]
    assert recalls["oracle, all classes"] > recalls["no filter"] + 0.1


def test_the_readme_has_the_table_of_results_json():
    results = json.loads((FOLDER / "results.json").read_text())
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert results["command"] in text
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    for name, values in run.summary(results["seeds"]).items():
        cells = [cell.strip() for cell in rows[name].split("|")[2:-1]]
        assert cells == run.cells(values)
