"""examples/metasmoothness on a short run: the numbers, the summary and the picture."""

import json

import numpy as np
import pytest

from examples.metasmoothness import digits, network, run, study

TINY = {"smooth": network.Routine(width=2), "rough": network.Routine(2, "after", "max", "relu")}


def test_each_routine_has_one_switch_of_the_other():
    names = run.routines()
    assert {"smooth", "rough", "smooth, norm after", "rough, average pool"} <= set(names)
    assert len(names) == 18
    assert names["smooth, max pool"].pool == "max"
    assert len(set(names.values())) == 18


def test_the_parts_of_the_digits_share_no_image():
    parts = digits.load(300, 400)
    assert [len(part.label) for part in parts] == [300, 400, 1097]
    batches = digits.batches(parts.train.label, 10, 64, 0)
    assert sorted(batches["example"].ravel()[:300]) == list(range(300))
    assert (parts.train.label[batches["example"]] == batches["label"]).all()


def test_the_rank_correlation_and_its_interval():
    smoothness = np.arange(12.0)
    rho, (low, high) = run.rank_correlation(smoothness, smoothness**3, draws=200)
    assert (rho, low, high) == pytest.approx((1, 1, 1))
    noise = np.random.default_rng(0).normal(size=12)
    rho, (low, high) = run.rank_correlation(smoothness, noise, draws=200)
    assert low < rho < high


def test_a_short_run_makes_the_table_and_the_picture(monkeypatch, tmp_path, capsys):
    for name, value in (("STEPS", 6), ("TRAIN", 40), ("HELD_OUT", 30), ("MOVED", 5)):
        monkeypatch.setattr(study, name, value)
    monkeypatch.setattr(run, "routines", lambda: TINY)
    monkeypatch.setattr(run.picture, "POINTS", 3)
    run.main(["--seeds", "1", "--rounds", "2", "--out", str(tmp_path)])
    results = json.loads((tmp_path / "results.json").read_text())
    for runs in results["runs"].values():
        numbers = runs["0"]
        assert -1 <= numbers["metasmoothness"] <= 1
        assert len(numbers["losses"]) == len(numbers["random_losses"]) == 3
        assert numbers["losses"][0] == pytest.approx(numbers["random_losses"][0], rel=1e-4)
        assert numbers["gain"] > 0
    text = capsys.readouterr().out
    assert "rank correlation of metasmoothness and over random" in text
    assert (tmp_path / "metasmoothness.png").stat().st_size > 5000
