"""A worker that does not answer as it should: children that are not Enzyme, a library that is
missing, and answers that are not the derivative.
"""

import textwrap
import time

import jax.numpy as jnp
import numpy as np
import pytest

import metagrad
from metagrad.compiler.enzyme import cache, interpreter, library, worker
from metagrad.compiler.enzyme.pipelines import FIRST_ORDER
from metagrad.compiler.enzyme.worker import WORKER, EnzymeError, EnzymeWorker

MODULE = "func.func public @f() { return }"

# --- What comes over the pipe


@pytest.fixture
def child(tmp_path, monkeypatch):
    """A worker whose child runs the given script, with `pipe`, `request` and `answer` at hand; and
    then a real one.
    """
    enzyme_worker = EnzymeWorker()

    def become(script):
        file = tmp_path / "child.py"
        file.write_text(
            "import json, multiprocessing.connection, os, sys, time\n"
            "pipe = multiprocessing.connection.Connection(int(sys.argv[1]))\n"
            "request = json.loads(pipe.recv_bytes())\n"
            "answer = lambda **said: pipe.send_bytes(json.dumps(said).encode())\n"
            + textwrap.dedent(script)
        )
        monkeypatch.setattr(worker, "SCRIPT", str(file))
        return enzyme_worker

    yield become
    monkeypatch.undo()
    assert "func.func" in enzyme_worker.run("f", MODULE, "canonicalize"), "the next call works"
    enzyme_worker.stop()


NONSENSE = {
    "text on the pipe": "os.write(pipe.fileno(), b'warning: the library is talking here\\n' * 9)",
    "bytes on the pipe": "os.write(pipe.fileno(), bytes([0, 0, 0, 4, 255, 254, 253, 252]))",
    "text in a message": "pipe.send_bytes(b'done')",
    "a list": "pipe.send_bytes(b'[true, \"module {}\"]')",
    "the answer to another call": "answer(call=request['call'] - 1, worked=True, text='module {}')",
    "no text": "answer(call=request['call'], worked=True)",
    "a number for the text": "answer(call=request['call'], worked=True, text=3)",
    "a text for the outcome": "answer(call=request['call'], worked='yes', text='module {}')",
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_on_the_pipe(name, child):
    """Found out at once, not at the time limit; and the process is stopped."""
    asked = child(
        f"print('I mean well', file=sys.stderr, flush=True)\n{NONSENSE[name]}\ntime.sleep(600)"
    )
    start = time.monotonic()
    with pytest.raises(
        EnzymeError,
        match=(
            r"^Enzyme's process answered nonsense on @f \(.+\) and was stopped; it said: I mean "
            r"well$"
        ),
    ):
        asked.run("f", MODULE, "canonicalize")
    assert time.monotonic() - start < 60
    assert asked._process is None


def test_a_closed_pipe(child):
    with pytest.raises(
        EnzymeError, match=r"^Enzyme's process answered nonsense on @f \(it closed the pipe\)"
    ):
        child("pipe.close()\ntime.sleep(600)").run("f", MODULE, "canonicalize")


def test_half_a_message(child):
    with pytest.raises(EnzymeError, match=r"^Enzyme took longer than 1 s on @f$"):
        child("os.write(pipe.fileno(), bytes([0, 0, 1, 0]) + b'{')\ntime.sleep(600)").run(
            "f", MODULE, "canonicalize", timeout=1
        )


def test_an_end_without_an_answer(child):
    with pytest.raises(
        EnzymeError,
        match=r"^Enzyme's library ended its process on @f \(exit code 3\): no more paper$",
    ):
        child("print('no more paper')\nsys.exit(3)").run("f", MODULE, "canonicalize")


def test_noise_is_no_answer(child):
    """The library may print what it likes, on either stream."""
    asked = child("""
        os.write(1, b'{"call": 1, "worked": true, "text": "out"}' * 9999)
        os.write(2, b'{"call": 1, "worked": true, "text": "err"}' * 9999)
        answer(call=request["call"], worked=True, text="pipe")
        time.sleep(600)""")
    assert asked.run("f", MODULE, "canonicalize") == "pipe"
    asked.stop()


def test_an_earlier_call_does_not_explain_the_end(child):
    asked = child("""
        print("ERROR: of the first call", flush=True)
        answer(call=request["call"], worked=True, text="fine")
        pipe.recv_bytes()
        os._exit(1)""")
    asked.run("f", MODULE, "canonicalize")
    with pytest.raises(EnzymeError, match=r"\(exit code 1\): it said nothing$"):
        asked.run("f", MODULE, "canonicalize")


# --- A library that is not there


@pytest.fixture
def fresh(monkeypatch):
    """A worker that has not started its process yet."""
    enzyme_worker = EnzymeWorker()
    yield enzyme_worker
    monkeypatch.undo()
    assert enzyme_worker.run("f", MODULE, "canonicalize")
    enzyme_worker.stop()


def test_a_library_that_cannot_be_loaded(fresh, monkeypatch, tmp_path):
    (tmp_path / "enzyme_call.so").write_bytes(b"\x7fELF, but no more")
    broken = library.Library(tmp_path / "enzyme_call.so", "installed", "enzyme-ad 0.0.16")
    monkeypatch.setattr(library, "locate", lambda: broken)
    with pytest.raises(
        EnzymeError, match=r"^Enzyme's library cannot be loaded for @f: ERROR: .+\. Install it anew"
    ):
        fresh.run("f", MODULE, "canonicalize")


def test_a_system_that_is_too_old_for_the_library(child):
    asked = child("""
        print("ERROR: libm.so.6: version `GLIBC_2.35' not found (required by enzyme_call.so)")
        sys.stdout.flush()
        os._exit(os.EX_UNAVAILABLE)""")
    with pytest.raises(EnzymeError, match=r"for @f: .* It needs glibc 2\.35 or newer.*ad='jax'"):
        asked.run("f", MODULE, "canonicalize")


@pytest.mark.parametrize("executable", ["/nowhere/python", ""])
def test_a_process_that_cannot_start(fresh, monkeypatch, executable):
    python = interpreter.Interpreter((executable,), "3.11.0")
    monkeypatch.setattr(interpreter, "choose", lambda: python)
    with pytest.raises(EnzymeError, match=r"^Enzyme's process for @f cannot be started: "):
        fresh.run("f", MODULE, "canonicalize")


# --- Answers that are not the derivative


@metagrad.compile
def step(w, z, x):
    return w - metagrad.grad(lambda w: jnp.sum(jnp.sin(w * z - x) ** 2))(w)


ARGUMENTS = jnp.ones(2), jnp.asarray(0.5), jnp.ones((3, 2))
METAGRADIENT = step.metagradient(jnp.sum)

ANSWERS = {
    "no MLIR": (
        lambda name, answer: "Segmentation fault",
        "answered something that is not MLIR on @inner",
    ),
    "nothing": (lambda name, answer: "", "answered with a module that has no function @inner"),
    "cut short": (
        lambda name, answer: answer[: len(answer) // 2],
        "answered something that is not MLIR on @inner",
    ),
    "invalid": (
        lambda name, answer: answer.replace("stablehlo.multiply", "stablehlo.compare"),
        "answered something that is not MLIR on @inner",
    ),
    "another function": (
        lambda name, answer: answer.replace(f"@{name}", "@other"),
        "answered with a module that has no function @inner",
    ),
    "another type": (
        lambda name, answer: (
            f"func.func public @{name}(%x: tensor<f64>) -> tensor<f64> "
            f"{{ return %x : tensor<f64> }}"
        ),
        "of type (tensor<f64>)",
    ),
    "no result": (
        lambda name, answer: f"func.func public @{name}() {{ return }}",
        "of type () -> ()",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_that_are_no_derivative(name, cached, monkeypatch):
    change, says = ANSWERS[name]
    run = WORKER.run
    monkeypatch.setattr(
        WORKER, "run", lambda function, *arguments: change(function, run(function, *arguments))
    )
    with pytest.warns(UserWarning) as warned:
        lowered = METAGRADIENT.lower(*ARGUMENTS)
    message = str(warned[0].message)
    assert says in message and "JAX differentiates this step instead" in message
    assert "@inner is the gradient of <lambda> (test_worker_nonsense.py:" in message
    assert {decision.rule for decision in lowered.decisions} == {"jax"}
    assert not cache.folder().exists(), "such an answer is not remembered"
    monkeypatch.setattr(WORKER, "run", run)
    again = METAGRADIENT.lower(*ARGUMENTS)
    assert {decision.rule for decision in again.decisions} == {"enzyme"}
    np.testing.assert_allclose(
        lowered.compile()(*ARGUMENTS).grad, again.compile()(*ARGUMENTS).grad, rtol=1e-5
    )


HALF_DONE = {
    "an op of Enzyme's": (
        "",
        '"enzyme.left"() : () -> ()',
        "enzyme.left is left in @inner after Enzyme's pipeline",
    ),
    "a function": (
        "func.func private @rest() { return }",
        "func.call @rest() : () -> ()",
        "left functions beside @inner that are not inlined: rest",
    ),
}


@pytest.mark.parametrize("name", HALF_DONE)
def test_answers_that_are_half_done(name, cached, monkeypatch):
    beside, within, says = HALF_DONE[name]
    run = WORKER.run

    def leave(function, module, pipeline):
        answer = run(function, module, pipeline)
        if pipeline == FIRST_ORDER:
            return answer
        return answer.replace("module {\n", f"module {{\n{beside}\n").replace(
            "    return ", f"    {within}\n    return "
        )

    monkeypatch.setattr(WORKER, "run", leave)
    with pytest.warns(UserWarning, match=says):
        lowered = METAGRADIENT.lower(*ARGUMENTS)
    assert {decision.rule for decision in lowered.decisions} == {"jax"}
