"""`metagrad ir`: the program of a step in a file, and errors that say what to do."""

import io
import sys

import pytest

from metagrad.cli import main
from metagrad.commands import user_files
from metagrad.compiler import opt, pipeline

STEP = """
import jax, jax.numpy as jnp, metagrad

@metagrad.compile
def train_step(w, rate, x):
    return w - rate * metagrad.grad(lambda w: jnp.mean((x @ w - 1) ** 2))(w)

def plain_step(w, rate, x):
    return w - rate * metagrad.grad(lambda w: jnp.mean((x @ w - 1) ** 2))(w)

def outer(w, target=None):
    return jnp.sum(w**2)

def wide(w):
    return jnp.dot(w, jnp.ones(5))  # line 15

f32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)

def example():
    return f32(3), f32(), f32(8, 4, 3)

def empty():
    return ()

def failing():
    raise OSError("no data here")  # line 26

class Project:
    outer = staticmethod(outer)

with_a_target = (f32(3), f32(), f32(8, 4, 3), f32(3))
streamed = (f32(3), f32(), metagrad.Stream(jnp.ones((8, 4, 3))))
mg = train_step.metagradient(outer, "state")
"""


@pytest.fixture(autouse=True)
def as_if_in_a_process_of_its_own(monkeypatch, tmp_path):
    """The user's file; imports of it leave nothing behind."""
    (tmp_path / "step_of_user.py").write_text(STEP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = {*sys.modules}
    yield
    user_files.module_of.cache_clear()
    for name in {*sys.modules} - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


def program(capsys, *arguments, step="step_of_user.py:train_step"):
    assert main(["ir", step, *arguments]) == 0
    return capsys.readouterr().out


def complaint(capsys, *arguments, step="step_of_user.py:train_step"):
    assert main(["ir", step, *arguments]) == 1
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith("metagrad ir: ")
    return streams.err


@pytest.mark.parametrize("stage", pipeline.STAGES)
def test_every_stage_is_that_of_the_api(stage, capsys):
    text = program(capsys, "--stage", stage)
    module = user_files.module_of("step_of_user.py")
    lowered = module.train_step.metagradient(module.outer).lower(*module.example())
    assert text == lowered.ir(stage).rstrip() + "\n"


def test_what_xla_makes_of_it(capsys):
    assert program(capsys, "--stage", "hlo").startswith("HloModule ")


def test_the_default_is_before_enzyme(capsys):
    assert "enzyme.autodiff" in program(capsys)


def test_the_help_names_the_stages(capsys):
    with pytest.raises(SystemExit):
        main(["ir", "--help"])
    text = capsys.readouterr().out
    places = [text.index(f"\n    {stage} ") for stage in (*pipeline.STAGES, "hlo")]
    assert places == sorted(places)


def test_a_plain_step_and_a_module(capsys):
    decorated = program(capsys, "--stage", "pieces")
    assert program(capsys, "--stage", "pieces", step="step_of_user.py:plain_step") == decorated
    assert program(capsys, "--stage", "pieces", step="step_of_user:train_step") == decorated
    again = ("--outer", "step_of_user:Project.outer", "--arguments", "step_of_user.py:example")
    assert program(capsys, "--stage", "pieces", *again) == decorated


def test_a_metagradient(capsys):
    text = program(capsys, step="step_of_user.py:mg")
    assert 'metagrad.wrt = ["state"]' in text
    assert program(capsys, "--wrt", "state") == text
    assert 'metagrad.wrt = ["meta", "state"]' in program(capsys, "--wrt", "meta,state")
    error = complaint(capsys, "--wrt", "meta", step="step_of_user.py:mg")
    assert "leave out --wrt" in error


def test_arguments_that_are_no_function(capsys):
    assert "outer = 1" in program(capsys, "--arguments", "with_a_target")


def test_a_schedule(capsys):
    periodic = program(capsys, "--stage", "scheduled", "--schedule", "Periodic(every=3)")
    assert periodic != program(capsys, "--stage", "scheduled", "--schedule", "StoreAll()")


def test_a_stream(capsys):
    text = program(capsys, "--arguments", "streamed", "--stage", "reverse")
    assert "func.func" in text
    error = complaint(capsys, "--arguments", "streamed", "--stage", "scheduled")
    assert "there are traced, cut, differentiated, pieces, advance, outer_vjp, reverse" in error


def test_the_explanation(capsys):
    text = program(capsys, "--explain")
    assert "the update of train_step: Enzyme" in text and "func.func" not in text
    commented = program(capsys, "--explain", "--stage", "cut")
    lines = commented.splitlines()
    assert lines[0].startswith("// ") and "// the update of train_step: Enzyme" in lines


def test_metagrad_opt_reads_it(capsys, monkeypatch):
    text = program(capsys, "--explain", "--stage", "cut")
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert opt.main(["-", "--pass=differentiate"]) == 0
    assert capsys.readouterr().out.rstrip() == program(capsys).rstrip()


def test_into_a_file(capsys, tmp_path):
    assert program(capsys, "-o", "out.mlir") == ""
    assert (tmp_path / "out.mlir").read_text() == program(capsys)
    assert "nowhere" in complaint(capsys, "-o", "nowhere/out.mlir")


@pytest.mark.parametrize(
    "step, message",
    [
        ("missing.py:step", "there is no file missing.py in "),
        ("step_of_user.py", "as in step_of_user.py:train_step"),
        ("step_of_user.py:trian_step", "no attribute 'trian_step'; did you mean 'train_step'?"),
        ("step_of_user.py:zzz", "it defines train_step, plain_step, outer, wide"),
        ("step_of_user.py:f32.zzz", "step_of_user.py:f32 has no attribute 'zzz'"),
        ("step_of_user.py:with_a_target", "name a training step, step(state, meta, batch)"),
        ("no_such_module:step", "importing no_such_module fails:\nModuleNotFoundError"),
    ],
)
def test_a_step_that_is_not_there(step, message, capsys):
    assert message in complaint(capsys, step=step)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--stage", "sheduled"), "no stage 'sheduled'; there are traced, cut, "),
        (("--outer", "oter"), "no attribute 'oter'; did you mean 'outer'?"),
        (("--outer", "wide"), "train_step fails at step_of_user.py:15:\nTypeError: "),
        (("--arguments", "empty"), "step_of_user.py:empty gives 0 values, where (state0, meta"),
        (("--arguments", "failing"), "failing fails at step_of_user.py:26:\nOSError: no data here"),
        (("--arguments", "mg"), "calling step_of_user.py:mg fails"),
        (("--schedule", "Binomal(3)"), "--schedule: 'Binomal(3)' is not a schedule"),
        (
            ("--schedule", "Auto(memory='lots')"),
            "--schedule: \"Auto(memory='lots')\": Auto(memory=...) must",
        ),
        (("--wrt", "weights"), "the metagradient fails:\nValueError: "),
    ],
)
def test_other_arguments_that_do_not_fit(arguments, message, capsys):
    assert message in complaint(capsys, *arguments)


def test_a_traceback_is_shown_if_asked_for(capsys):
    error = main(["ir", "step_of_user.py:train_step", "--outer", "wide", "--traceback"])
    assert error == 1
    assert "in wide\n    return jnp.dot(w, jnp.ones(5))" in capsys.readouterr().err


@pytest.mark.parametrize("missing, option", [("outer", "--outer"), ("example", "--arguments")])
def test_defaults_that_are_not_there(missing, option, capsys, tmp_path):
    text = STEP.replace(f"def {missing}(", f"def other_{missing}(")
    (tmp_path / "other_step.py").write_text(text.replace("(outer", "(wide"))
    error = complaint(capsys, step="other_step.py:train_step")
    assert f"other_step.py has no function '{missing}'" in error
    assert f"{option} other_step.py:NAME" in error


@pytest.mark.parametrize(
    "line, message",
    [
        ("raise SystemExit(3)", 'below `if __name__ == "__main__":`'),
        ("import no_such_package", "fails at broken.py:1:\nModuleNotFoundError"),
        ("def step(:", "fails at "),
    ],
)
def test_a_file_that_cannot_be_imported(line, message, capsys, tmp_path):
    (tmp_path / "broken.py").write_text(line + "\n")
    error = complaint(capsys, step="broken.py:step")
    assert message in error and "broken.py" in error


@pytest.mark.parametrize("schedule", ["Auto(memory='1GiB')", "metagrad.Binomial(4)"])
def test_schedules_are_written_as_in_python(schedule, capsys):
    assert main(["ir", "step_of_user.py:train_step", "--explain", "--schedule", schedule]) == 0
    assert "Enzyme" in capsys.readouterr().out
