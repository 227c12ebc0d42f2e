"""Compiling for an H100 on a machine without one: the command, and the aims on the small MLP.

The latter needs JAX's CUDA plugin and a description of the device, and is skipped without them.
"""

import importlib.util
import json
import os
import pathlib

import pytest

import metagrad
from benchmarks import gpu_compile
from benchmarks.gpu_compile import __main__ as command
from benchmarks.gpu_compile import programs, rows
from benchmarks.gpu_compile.ahead_of_time import (
    CONFIG_VARIABLE,
    NotPossible,
    environment,
    read_target_config,
)

CONFIG = os.environ.get(CONFIG_VARIABLE)
needs_cuda = pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is None
    or importlib.util.find_spec("jax_plugins.xla_cuda12") is None
    or CONFIG is None,
    reason=f"needs JAX's CUDA plugin (make gpu-compile installs it) and {CONFIG_VARIABLE}",
)


def test_a_target_config_that_is_not_named(monkeypatch, capsys):
    monkeypatch.delenv(CONFIG_VARIABLE, raising=False)
    with pytest.raises(NotPossible, match=r"h100_sxm\.txtpb.*--target-config"):
        read_target_config(None)
    assert command.main([]) == 1
    assert "h100_sxm.txtpb" in capsys.readouterr().out


def test_a_target_config_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(NotPossible, match="nowhere is not there"):
        read_target_config(None)
    (tmp_path / "here").write_text("")
    assert read_target_config(tmp_path / "here") == tmp_path / "here"


@pytest.mark.parametrize("model, steps", [("mlp", 64), ("gpt2", 16), ("gpt2", 1024)])
def test_names_of_programs(model, steps):
    names = programs.names(model, steps)
    assert names[0].startswith("metagrad ")
    for name in names:
        if name.startswith("metagrad "):
            programs.schedule_of(name.removeprefix("metagrad "))


def test_schedules_by_name():
    assert programs.schedule_of("Binomial(8)") == metagrad.Binomial(8)
    assert programs.schedule_of("Binomial(8, keep_gradients=False)") == metagrad.Binomial(8, False)
    assert programs.schedule_of('Auto("15GB")') == metagrad.Auto("15GB")
    for text in ("Nonsense(3)", "Binomial", "print(__file__)"):
        with pytest.raises(ValueError, match="no schedule"):
            programs.schedule_of(text)


def test_which_programs_are_chosen():
    names = programs.names("mlp", 64)
    assert command.chosen(names, ("plain", "mix*")) == ["plain", "mixflow"]
    assert command.chosen(names, ("metagrad Binomial(3)",)) == ["metagrad Binomial(3)"]
    assert command.chosen(names, ("*",)) == list(names)


def row(**changed):
    details = {
        "slot_bytes": 800,
        "bytes_of_steps": 50,
        "sizes": {"state": 100, "gradient": 30, "step": 5},
        "slots": 2,
        "steps_of_segment": 6,
        "outer_bytes": 10,
    }
    memory = {"arguments": 120, "outputs": 100, "temporaries": 1000, "aliased": 0}
    return {
        "program": "metagrad Binomial(4)",
        "details": details,
        "memory": memory,
        "state_bytes": 100,
        "products": {"widened": 0},
        "questions": {"total": 30, "per_step": 3.0},
        "copies": {"states": 2.0, "states_inside_segments": 0.0},
    } | changed


def test_the_prediction_is_the_plans_memory_without_arguments_and_results():
    memory = {"arguments": 300, "outputs": 130, "temporaries": 500, "aliased": 0}
    step = row(program="step", memory=memory)
    # 930 bytes, of which 260 are two slots and 30 are batches; 10 are for the outer function.
    assert rows.step_workspace(step) == 650
    assert rows.predicted(row(), step) == 800 + 50 + 650 - 120 - 100
    assert rows.predicted(row(), None) is None
    assert rows.predicted(row(program="plain"), step) is None


@pytest.mark.parametrize(
    "changed, missed",
    [
        ({}, []),
        ({"questions": {"total": 31, "per_step": 3.1}}, ["at most 3 questions"]),
        ({"products": {"widened": 1}}, ["bf16 products"]),
        ({"copies": {"states_inside_segments": 0.5}}, ["no state"]),
        ({"questions": {"total": None}}, []),
    ],
)
def test_aims(changed, missed):
    reached = rows.aims(row(**changed), None)
    assert [name for name, is_reached in reached.items() if not is_reached] == [
        name for name in reached if any(name.startswith(start) for start in missed)
    ]
    assert len(missed) == sum(not is_reached for is_reached in reached.values())


def test_a_worker_that_fails_leaves_a_note(monkeypatch):
    request = {"model": "mlp", "steps": 4, "precision": "f32", "program": "no such program"}
    note = command.compiled(request | {"target_config": "/nowhere"}, dict(os.environ), 60)["note"]
    assert note.startswith("ended with 1: FileNotFoundError")


def test_a_worker_that_takes_too_long_is_stopped():
    request = {"model": "mlp", "steps": 4, "precision": "f32", "program": "plain"}
    result = command.compiled(request | {"target_config": "/nowhere"}, dict(os.environ), 0.05)
    assert result == {"note": "stopped after 0.05 s"}


@needs_cuda
@pytest.mark.slow
def test_the_small_mlp_reaches_the_aims(tmp_path):
    out = tmp_path / "gpu_compile.json"
    assert pathlib.Path(gpu_compile.__file__).parent.is_dir()
    environment()
    arguments = ["--models", "mlp", "--steps", "8", "--precision", "bf16", "--out", str(out)]
    assert command.main([*arguments, "--contenders", "metagrad StoreAll(),step"]) == 0
    record = json.loads(out.read_text())
    assert record["device"]["name"] == "H100 (compiled ahead of time, not run)"
    compiled = {each["program"]: each for each in record["rows"]}
    ours = compiled["metagrad StoreAll()"]
    assert ours["products"]["in_bf16"] > 0
    reached = rows.aims(ours, compiled["step"])
    assert len(reached) == 4
    assert all(reached.values()), reached
