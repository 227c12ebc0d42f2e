"""Enzyme's process: which Python it runs under, that this Python is fit for it, and that a wrong
library is found out.
"""

import pathlib
import random
import subprocess
import sys
import sysconfig

import pytest

from metagrad.compiler.enzyme import interpreter, library, process
from metagrad.compiler.enzyme.error import EnzymeError
from metagrad.compiler.enzyme.interpreter import Interpreter
from metagrad.compiler.enzyme.pipelines import FIRST_ORDER, SECOND_ORDER
from metagrad.compiler.enzyme.worker import EnzymeWorker

# --- Which Python


def choose(path: str = "", by_hand: str = "", release: tuple[int, int, int] = (3, 12, 1)):
    return interpreter._choose.__wrapped__(by_hand, path, "/this/python", release)


@pytest.fixture
def python(tmp_path):
    """Makes folders with a `python3.11` that is a shell script."""

    def make(name: str, script: str) -> str:
        file = tmp_path / name / "python3.11"
        file.parent.mkdir()
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return str(file.parent)

    return make


def says(major: int, minor: int, name: str = "cpython", free_threaded: str = "false") -> str:
    answer = f'["/real/python", "{name}", {major}, {minor}, 9, {free_threaded}]'
    return f"echo '{answer}'"


FAILS = "echo 'pyenv: python3.11: command not found' >&2; exit 127"


def test_this_one_if_it_is_the_one_that_the_library_was_built_for(python):
    assert choose(python("a", FAILS), release=(3, 11, 7)) == Interpreter(
        ("/this/python", "-P", "-S"), "3.11.7"
    )


def test_another_that_is_on_the_path(python):
    """The first that works, by its own name: a shim of pyenv may exist and fail."""
    path = [
        "/nowhere",
        python("fails", FAILS),
        python("lies", says(3, 9)),
        python("hangs", "exit 0"),
        python("pypy", says(3, 11, "pypy")),
        python("works", says(3, 11)),
        python("too late", FAILS),
    ]
    assert choose(":".join(path)) == Interpreter(("/real/python", "-I", "-S"), "3.11.9")


def test_this_one_if_there_is_no_other(python):
    assert choose(python("fails", FAILS)).command[0] == "/this/python"


def test_a_python_that_cannot_load_the_library(python):
    with pytest.raises(
        EnzymeError,
        match=r"CPython 3\.11, 3\.12 and 3\.13, and not in this Python \(cpython 3\.14\.0.*"
        r"named in METAGRAD_ENZYME_PYTHON.*ad='jax'",
    ):
        choose(python("fails", FAILS), release=(3, 14, 0))
    other = choose(python("works", says(3, 11)), release=(3, 14, 0))
    assert other.command == ("/real/python", "-I", "-S")


def test_one_that_is_named(python):
    assert choose(by_hand=python("works", says(3, 12)) + "/python3.11") == Interpreter(
        ("/real/python", "-I", "-S"), "3.12.9"
    )


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        (FAILS, "which does not work here: pyenv: python3.11: command not found"),
        ("exit 0", "which does not work here: it ended with exit code 0"),
        (
            says(3, 10),
            r"which is Python 3\.10\.9\. Enzyme's library can be loaded in CPython 3\.11",
        ),
        (
            says(3, 14),
            r"which is Python 3\.14\.9\. Enzyme's library can be loaded in CPython 3\.11",
        ),
        (says(3, 11, "pypy"), r"which does not work here: it is pypy 3\.11"),
        (says(3, 13, free_threaded="true"), r"it is cpython 3\.13 without a GIL"),
    ],
)
def test_one_that_is_named_and_does_not_do(python, script, complaint):
    with pytest.raises(EnzymeError, match=f"^METAGRAD_ENZYME_PYTHON names .*{complaint}"):
        choose(by_hand=python("wrong", script) + "/python3.11")


def test_one_that_is_named_and_is_not_there(monkeypatch):
    monkeypatch.setenv(interpreter.VARIABLE, "/nowhere/python")
    with pytest.raises(EnzymeError, match=r"names /nowhere/python, .* No such file or directory"):
        EnzymeWorker().run("f", "func.func public @f() { return }", "canonicalize")


# --- This Python under load


def second_derivative(seed: int) -> str:
    """A module whose @hvp is a Hessian-vector product of a random chain of ops, with loops."""
    draw = random.Random(seed)
    ty, value, ops = f"tensor<{draw.randint(1, 9)}xf32>", "%x", []
    for i in range(draw.randint(1, 12)):
        op = draw.choice(["sine", "cosine", "tanh", "multiply", "while"])
        if op == "multiply":
            ops.append(f"%v{i} = stablehlo.multiply {value}, %x : {ty}")
        elif op == "while":
            ops.append(
                f"""
                %zero{i} = stablehlo.constant dense<0> : tensor<i64>
                %one{i} = stablehlo.constant dense<1> : tensor<i64>
                %trips{i} = stablehlo.constant dense<{draw.randint(2, 9)}> : tensor<i64>
                %w{i}:2 = stablehlo.while(%i = %zero{i}, %h = {value}) : tensor<i64>, {ty}
                cond {{
                  %c = stablehlo.compare LT, %i, %trips{i} : (tensor<i64>, tensor<i64>)
                      -> tensor<i1>
                  stablehlo.return %c : tensor<i1>
                }} do {{
                  %n = stablehlo.tanh %h : {ty}
                  %j = stablehlo.add %i, %one{i} : tensor<i64>
                  stablehlo.return %j, %n : tensor<i64>, {ty}
                }}
                %v{i} = stablehlo.sine %w{i}#1 : {ty}"""
            )
        else:
            ops.append(f"%v{i} = stablehlo.{op} {value} : {ty}")
        value = f"%v{i}"
    body = "\n".join(ops)
    return f"""
      func.func public @hvp(%x: {ty}, %d: {ty}) -> {ty} {{
        %h = "enzyme.fwddiff"(%x, %d) <{{fn = @gradient, activity = [#enzyme<activity<enzyme_dup>>],
          ret_activity = [#enzyme<activity<enzyme_dupnoneed>>]}}> : ({ty}, {ty}) -> {ty}
        return %h : {ty}
      }}
      func.func private @gradient(%x: {ty}) -> {ty} {{
        %one = stablehlo.constant dense<1.0> : tensor<f32>
        %g = "enzyme.autodiff"(%x, %one) <{{fn = @loss,
            activity = [#enzyme<activity<enzyme_active>>],
          ret_activity = [#enzyme<activity<enzyme_activenoneed>>]}}> : ({ty}, tensor<f32>) -> {ty}
        return %g : {ty}
      }}
      func.func private @loss(%x: {ty}) -> tensor<f32> {{
        {body}
        %l = stablehlo.dot_general {value}, {value}, contracting_dims = [0] x [0]
            : ({ty}, {ty}) -> tensor<f32>
        return %l : tensor<f32>
      }}"""


def test_a_hundred_modules_and_errors_in_this_python(monkeypatch):
    """In one process under the very Python that runs the tests, which on 3.13 needs the shim."""
    monkeypatch.setenv(interpreter.VARIABLE, sys.executable)
    assert interpreter.choose().version == ".".join(map(str, sys.version_info[:3]))
    worker, processes = EnzymeWorker(), set()
    try:
        for seed in range(100):
            pipeline = SECOND_ORDER if seed % 2 else FIRST_ORDER
            answer = worker.run("hvp", second_derivative(seed), pipeline)
            assert "enzyme." not in answer and "func.func" in answer
            with pytest.raises(EnzymeError, match=r"^Enzyme refused @hvp: "):
                worker.run("hvp", f"nonsense {seed}", pipeline)
            with pytest.raises(EnzymeError, match=r"^Enzyme refused @hvp: "):
                worker.run("hvp", second_derivative(seed), f"no-such-pass-{seed}")
            processes.add(worker._process.pid)
        assert len(processes) == 1
    finally:
        worker.stop()


# --- The check at its start

# Stands for the library: answers every module with the text that it was built with.
FAKE = """
#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
static PyObject *run(PyObject *module, PyObject *arguments) {
  return Py_BuildValue("(ss)", "check", ANSWER);
}
static PyMethodDef methods[] = {
  {"run_pass_pipeline", run, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "enzyme_call", NULL, -1, methods};
PyMODINIT_FUNC PyInit_enzyme_call(void) { return PyModule_Create(&definition); }
"""


def results(*values: float) -> str:
    lines = [f"%c{i} = stablehlo.constant dense<{v:e}> : tensor<f64>" for i, v in enumerate(values)]
    names, types = ", ".join(f"%c{i}" for i in range(4)), ", ".join(["tensor<f64>"] * 4)
    header = (
        "func.func public @check(%x: tensor<f64>, %y: tensor<f64>, %a: tensor<f64>, %b: "
        "tensor<f64>) {"
    )
    return "\n".join([header, *lines, f"return {names} : {types}", "}"])


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Builds a library that answers with a text, and a worker that uses it."""
    worker = EnzymeWorker()

    def build(answer: str) -> EnzymeWorker:
        quoted = answer.replace("\n", "\\n").replace('"', '\\"')
        source = tmp_path / "fake.c"
        source.write_text(FAKE.replace("ANSWER", f'"{quoted}"'))
        command = [*sysconfig.get_config_var("CC").split()[:1], "-shared", "-fPIC", str(source)]
        command += [f"-I{sysconfig.get_path('include')}", "-o", str(tmp_path / "enzyme_call.so")]
        subprocess.run(command, check=True)
        monkeypatch.setenv(library.VARIABLE, str(tmp_path / "enzyme_call.so"))
        return worker

    yield build
    worker.stop()


MODULE = "func.func public @f() { return }"


def test_a_library_with_right_derivatives(fake):
    answer = results(30, 9, 136, 42)
    assert fake(answer).run("f", MODULE, "canonicalize") == answer


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (results(30, 9, 136, 43), r"are \[30.0, 9.0, 136.0, 42.0\], and it says \[.*, 43.0\]"),
        (results(30, 9.000001, 136, 42), r"it says \[30.0, 9.000001, 136.0, 42.0\]"),
        (results(float("nan"), 9, 136, 42), r"it says \[nan, "),
        ("module {}", r"cannot be evaluated \(it returns nothing\)"),
    ],
    ids=["second order", "first order", "NaN", "nothing"],
)
def test_a_library_with_wrong_derivatives(fake, answer, complaint):
    """It does not answer at all, and the message says why and what names this library."""
    with pytest.raises(
        EnzymeError,
        match=(
            rf"^Enzyme's library is wrong, so it is not used for @f: .*{complaint}"
            r".*METAGRAD_ENZYME names it"
        ),
    ):
        fake(answer).run("f", MODULE, "canonicalize")


class Answer:
    """Stands for the loaded library."""

    def __init__(self, change):
        self.change = change

    def run_pass_pipeline(self, names, module, pipeline):
        return names[0], self.change(GOOD)


GOOD = """
  func.func public @check_1(%arg0: tensor<f64>, %arg1: tensor<f64>, %arg2: tensor<f64>, \
%arg3: tensor<f64>) -> (tensor<f64>, tensor<f64>, tensor<f64>, tensor<f64>) {
    %0 = stablehlo.multiply %arg0, %arg0 : tensor<f64> loc(#loc1)
    %1 = stablehlo.multiply %arg0, %arg1 : tensor<f64>
    %2 = stablehlo.add %1, %1 : tensor<f64>
    %3 = stablehlo.multiply %arg0, %arg2 : tensor<f64>
    %4 = stablehlo.add %3, %3 : tensor<f64>
    %5 = stablehlo.multiply %arg1, %arg2 : tensor<f64>
    %6 = stablehlo.multiply %arg0, %arg3 : tensor<f64>
    %7 = stablehlo.add %5, %6 : tensor<f64>
    %8 = stablehlo.add %7, %7 : tensor<f64>
    return %2, %0, %8, %4 : tensor<f64>, tensor<f64>, tensor<f64>, tensor<f64>
  }"""


def test_the_check_evaluates_what_it_is_told():
    assert process.check(Answer(lambda good: good)) is None
    for old, new, complaint in (
        ("add %7, %7", "add %7, %5", "and it says [30.0, 9.0, 103.0, 42.0]"),
        ("return %2, %0", "return %0, %2", "and it says [9.0, 30.0, 136.0, 42.0]"),
        ("stablehlo.add %5", "stablehlo.subtract %5", "it has the op %7 = stablehlo.subtract"),
        ("%7, %7", "%9, %7", "cannot be evaluated ('%9')"),
        (", %arg3: tensor<f64>", "", "cannot be evaluated"),
    ):
        assert complaint in process.check(Answer(lambda good: good.replace(old, new)))  # noqa: B023


def test_the_process_imports_nothing_of_ours():
    """So that any Python can run it, at once."""
    source = pathlib.Path(process.__file__).read_text()
    assert "metagrad" not in [
        word
        for line in source.splitlines()
        if line.startswith(("import ", "from "))
        for word in line.replace(".", " ").split()
    ]
