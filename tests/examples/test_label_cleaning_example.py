"""The example of label cleaning, on one split of the data."""

import json
import pathlib

import matplotlib
import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
matplotlib.use("Agg")


def test_finds_wrong_labels(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from examples.label_cleaning import contenders, run

    for name, number in {"RUNS": 1, "ROUNDS": 2, "FRESH": 2}.items():
        monkeypatch.setattr(run, name, number)
    one = {"loss in training": contenders.ALL["loss in training"]}
    monkeypatch.setattr(contenders, "ALL", one)
    results = run.main(["--seeds", "1", "--noise", "systematic", "--out", str(tmp_path)])
    (outcomes,) = results["studies"]["systematic"]
    assert outcomes["metagradient, once"]["precision"] > 0.7
    assert outcomes["loss in training"]["precision"] < 0.6
    loss = {name: each["test loss"] for name, each in outcomes.items()}
    assert loss["metagradient, once"] < 0.9 * loss["all examples"]
    assert (tmp_path / "label_cleaning.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "results.json").read_text())["command"] == run.COMMAND


def test_the_readme_has_the_results():
    folder = ROOT / "examples" / "label_cleaning"
    lines = json.loads((folder / "results.json").read_text())["tables"]
    shown = (folder / "README.md").read_text()
    assert lines and all(line.rstrip() in shown for line in lines)


@pytest.mark.parametrize("name", ["label_cleaning", "learning_rate_schedule"])
def test_the_picture_is_small(name):
    picture = ROOT / "examples" / name / f"{name}.png"
    assert 10_000 < picture.stat().st_size < 150_000
