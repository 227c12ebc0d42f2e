"""The example of learning-rate schedules, on short runs and a small grid."""

import json
import pathlib

import matplotlib
import numpy as np

ROOT = pathlib.Path(__file__).parent.parent.parent
matplotlib.use("Agg")


def test_learns_from_a_flat_start(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from examples.learning_rate_schedule import run, searches

    grid = {"PEAKS": np.array([0.05, 0.3]), "WARMUPS": (0.0, 0.1), "FINALS": (1.0, 0.1)}
    for name, values in (grid | {"SHAPES": ("linear",), "TUNING_FREE": {}}).items():
        monkeypatch.setattr(searches, name, values)
    monkeypatch.setattr(run, "FRESH", 4)
    monkeypatch.setattr(run, "DEAR", 0.1)
    arguments = ["--seeds", "1", "--steps", "40", "--rounds", "12", "--points", "4"]
    results = run.main([*arguments, "--out", str(tmp_path)])
    (outcomes,) = results["seeds"]
    loss = {name: each["validation loss"] for name, each in outcomes.items()}
    assert loss["learned"] < 0.7 * loss["flat start"]
    assert loss["learned"] < 1.1 * loss["grid at 20 times the cost"]
    assert len(outcomes["learned"]["rates"]) == 40 and outcomes["learned"]["price"] > 12
    assert (tmp_path / "learning_rate_schedule.png").stat().st_size > 10_000


def test_a_warm_up_and_a_decay():
    import sys

    sys.path.insert(0, str(ROOT))
    try:
        from examples.learning_rate_schedule import searches
    finally:
        sys.path.remove(str(ROOT))
    rates = searches.schedule(100, 0.5, 0.2, 0.1, "linear")
    assert rates.argmax() == 19 and abs(rates[19] - 0.5) < 1e-6 and abs(rates[-1] - 0.05) < 1e-6
    assert abs(rates[59] - (0.5 + 0.05) / 2) < 1e-6
    described, all_rates = searches.grid(10)
    assert len(described) == len(all_rates) == 600


def test_the_readme_has_the_results():
    folder = ROOT / "examples" / "learning_rate_schedule"
    results = json.loads((folder / "results.json").read_text())
    shown = (folder / "README.md").read_text()
    assert results["table"] and all(line.rstrip() in shown for line in results["table"])
    assert f"{results['metagradient in plain runs']:.1f} of them" in shown
