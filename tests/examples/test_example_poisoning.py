"""examples/poisoning on a short run: every attack is judged, and the report has them."""

import json

import numpy as np

from examples.metasmoothness import network
from examples.poisoning import attacks, run


def test_a_short_run(monkeypatch, tmp_path, capsys):
    for name, value in (("STEPS", 6), ("TRAIN", 80), ("HELD_OUT", 30), ("DISTANCES", (0.2,))):
        monkeypatch.setattr(attacks, name, value)
    monkeypatch.setattr(attacks, "SMOOTH", network.Routine(width=2, batch=16))
    monkeypatch.setattr(attacks, "ROUGH", network.Routine(2, "after", "max", "relu", batch=16))
    short = ["--seeds", "1", "--rounds", "2", "--steps", "3", "--trainings", "1"]
    run.main([*short, "--out", str(tmp_path)])
    results = json.loads((tmp_path / "results.json").read_text())
    (attacked,) = results["runs"].values()
    assert set(attacked) == {"none", *run.ATTACKS}
    descent = attacked["metagradient descent"]
    assert len(descent["losses"]) == 2
    before, after = np.array(descent["clean images"]), np.array(descent["images"])
    assert len(before) == 2  # 2.5% of 80
    assert (before != after).any()
    assert 0 <= after.min() <= after.max() <= 1
    text = capsys.readouterr().out
    assert all(f"  {name}" in text for name in run.ATTACKS)
    assert (tmp_path / "poisoning.png").stat().st_size > 5000
