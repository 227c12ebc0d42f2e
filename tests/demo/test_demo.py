"""The demo, shortened, as a user runs it: in its own process, with its output in a pipe.

One run serves all tests of its results.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("optax")

import metagrad
from metagrad import cli
from metagrad.commands.demo import QUICK_ROUNDS, QUICK_STEPS
from metagrad.demo import data, label_noise, rate_descent
from metagrad.demo.requirements import EXTRA, MissingExtra, require_extra
from metagrad.demo.timeline import timeline

STAGES = "traced", "cut", "differentiated", "pieces", "scheduled", "hlo"
PLOTS = "plan.png", "label_noise.png", "loss.png", "learning_rate.png"


def python(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        **options,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """(folder, what was printed, results.json) of a shortened run."""
    folder = tmp_path_factory.mktemp("demo") / "made" / "by the demo"
    done = python(
        "-m",
        "metagrad",
        "demo",
        "--quick",
        "--out",
        str(folder),
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout, json.loads((folder / "results.json").read_text())


def test_ir_of_every_stage_is_written(demo):
    folder, printed, _ = demo
    for place, stage in enumerate(STAGES, 1):
        name = f"{place}-{stage}.mlir"
        assert (folder / name).read_text().strip(), name
        assert name in printed
    assert "enzyme.autodiff" in (folder / "3-differentiated.mlir").read_text()
    assert "enzyme." not in (folder / "5-scheduled.mlir").read_text()


@pytest.mark.parametrize("name", PLOTS)
def test_plots_are_written(demo, name):
    folder, printed, _ = demo
    assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert name in printed


def test_metagradients_agree_with_jax(demo):
    _, _, results = demo
    for name, error in results["comparing"]["error_against_jax"].items():
        assert error < 1e-4, name
    for name, slope in results["comparing"]["slope"].items():
        assert slope == pytest.approx(results["comparing"]["norm"][name], rel=1e-3), name
    assert results["comparing"]["validation_loss"] == pytest.approx(
        results["comparing"]["jax_validation_loss"], rel=1e-5
    )


def test_agreement_is_printed(demo):
    _, printed, results = demo
    for error in results["comparing"]["error_against_jax"].values():
        assert f"{error:.1e}" in printed


def test_metagradient_finds_wrong_labels(demo):
    _, printed, results = demo
    labels = results["wrong_labels"]
    assert labels["chance"] == pytest.approx(label_noise.FRACTION)
    assert labels["precision"] > 4 * labels["chance"]
    assert f"metagradient {labels['precision']:.2f}" in printed


def test_descent_improves_the_schedule(demo):
    _, _, results = demo
    assert results["learning_rate"]["after"] < 0.9 * results["learning_rate"]["before"]
    assert len(results["learning_rate"]["validation_loss_by_round"]) == QUICK_ROUNDS + 1


def test_plan_is_printed(demo):
    _, printed, results = demo
    assert results["compiling"]["schedule"] in printed
    assert results["compiling"]["steps"] == QUICK_STEPS
    assert results["compiling"]["temporary_bytes"] < results["comparing"]["temporary_bytes"]["jax"]


def test_a_pipe_gets_plain_text(demo):
    folder, printed, _ = demo
    assert "\x1b" not in printed and "\r" not in printed
    assert printed.rstrip().endswith(str(folder))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["dmeo"], "invalid choice: 'dmeo'"),
        ([], "COMMAND"),
        (["demo", "--steps", "many"], "'many' is not a whole number"),
        (["demo", "--steps", "1"], "must be at least 2"),
        (["demo", "--rounds", "0"], "must be at least 1"),
    ],
)
def test_mistakes_in_the_arguments(capsys, arguments, message):
    with pytest.raises(SystemExit) as status:
        cli.main(arguments)
    assert status.value.code == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as status:
        cli.main(["demo", "--out", str(tmp_path / "file" / "folder")])
    assert status.value.code == 2
    message = capsys.readouterr().err
    assert "--out" in message
    assert str(tmp_path / "file" / "folder") in message
    assert "Not a directory" in message


def test_a_missing_extra_says_what_to_install(capsys, monkeypatch, tmp_path):
    with pytest.raises(
        MissingExtra, match=r"not-on-this-machine is not installed.*pip install metagrad\[demo\]"
    ):
        require_extra({"no_such_module_anywhere": "not-on-this-machine"})
    monkeypatch.setitem(EXTRA, "no_such_module_anywhere", "not-on-this-machine")
    assert cli.main(["demo", "--out", str(tmp_path)]) == 1
    assert "pip install metagrad[demo]" in capsys.readouterr().err


def test_importing_metagrad_leaves_the_extra_alone():
    done = python(
        "-c",
        "import sys, metagrad, metagrad.cli, metagrad.demo; "
        "print(*{'sklearn', 'matplotlib'} & set(sys.modules))",
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split()


def test_parts_of_the_data_share_no_image():
    digits = data.load(seed=0)
    assert [len(part.label) for part in digits] == [1000, 400, 397]
    images = [{image.tobytes() for image in part.image} for part in digits]
    assert not images[0] & images[1] and not images[0] & images[2] and not images[1] & images[2]


def test_noise_and_batches_follow_the_seed():
    digits = data.load(seed=3)
    (noisy, wrong), (again, where) = (
        label_noise.plant(digits.train, 3),
        label_noise.plant(digits.train, 3),
    )
    np.testing.assert_array_equal(noisy.label, again.label)
    np.testing.assert_array_equal(wrong, where)
    assert wrong.sum() == 100 and np.array_equal(wrong, noisy.label != digits.train.label)
    first, second, other = (data.batches(noisy, 20, 128, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first["example"], second["example"])
    assert not np.array_equal(first["example"], other["example"])
    np.testing.assert_array_equal(first["label"], noisy.label[first["example"]])
    # An epoch holds every example once.
    assert len(set(first["example"].ravel()[:1000])) == 1000


def test_descent_stops_where_training_diverges():
    losses = iter([2.0, 1.0, float("nan"), 0.5])
    rounds = list(
        rate_descent.descend(
            lambda rate: (next(losses), np.ones(12, np.float32), None), np.zeros(12), rounds=3
        )
    )
    assert [r.validation_loss for r in rounds] == [2.0, 1.0]
    assert np.all(rounds[1].log_rate < rounds[0].log_rate)


@pytest.mark.parametrize(
    "schedule",
    [
        metagrad.LazyKary(k=2),
        metagrad.LazyKary(k=4),
        metagrad.Binomial(5),
        metagrad.Binomial(5, rebuild=2),
        metagrad.Periodic(4),
        metagrad.StoreAll(),
    ],
    ids=str,
)
@pytest.mark.parametrize("steps", [1, 16, 37])
def test_timeline_agrees_with_the_plan(schedule, steps):
    plan = schedule.plan(steps, gradients=True)
    drawn = timeline(plan)
    assert [vjp.step for vjp in drawn.vjps] == list(range(steps))[::-1]
    assert sum(run.last - run.first for run in drawn.runs) == plan.advances + plan.updates
    assert drawn.end == plan.advances + plan.updates + plan.vjps
    assert sum(not vjp.kept for vjp in drawn.vjps) == plan.gradients_on_the_spot
    for bars, slots in ((drawn.states, plan.state_slots), (drawn.gradients, plan.gradient_slots)):
        for time in range(drawn.end + 1):
            assert sum(bar.since <= time < bar.until for bar in bars) <= slots
