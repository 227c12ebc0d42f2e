"""What a user sees while a metagradient is compiled, on a terminal and elsewhere."""

import re
import textwrap

import pytest
from terminal import on_a_terminal, run, screen

# A program that takes XLA a while: layers of their own, not a loop.
PROGRAM = """
import sys, warnings
import jax, jax.numpy as jnp
import metagrad
from metagrad.api import progress

progress.WAIT = {wait}


def loss(ws, x):
    for w in ws:
        x = jnp.tanh(x @ w)
    return jnp.sum(x**2)


@metagrad.compile
def step(ws, rate, x):
    {inside}
    gradients = metagrad.grad(loss)(ws, x)
    return [w - rate * g for w, g in zip(ws, gradients)]


ws = [jnp.eye(8) * 0.5] * {layers}
mg = step.metagradient(lambda ws: jnp.sum(ws[0]), {options})
print(float(mg(ws, 0.1, jnp.ones((2, 8, 8))).value))
"""


def program(options="", wait=0.2, layers=12, inside="pass"):
    return textwrap.dedent(PROGRAM.format(options=options, wait=wait, layers=layers, inside=inside))


def test_the_stages_show_and_disappear():
    # Tracing takes long enough to be met by a refresh.
    inside = "warnings.warn('look out'); __import__('time').sleep(1.5)"
    output, seen = on_a_terminal(program(inside=inside))
    assert float(output)
    assert re.search("metagrad: tracing the step.*, [0-9]+ s", seen)
    assert len(re.findall("metagrad: compiling with XLA, ", seen)) > 2, "it is refreshed"
    left = screen(seen)
    assert not any("metagrad: " in line for line in left), left
    assert sum("UserWarning: look out" in line for line in left) == 1


def test_nothing_shows_for_what_is_quick():
    output, seen = on_a_terminal(program(wait=60.0, layers=1))
    assert float(output) and seen == ""


@pytest.mark.parametrize(
    "options, environment", [("", {"METAGRAD_PROGRESS": "0"}), ("progress=False", {})]
)
def test_it_can_be_switched_off(options, environment):
    output, seen = on_a_terminal(program(options, wait=0.0, layers=1), **environment)
    assert float(output) and seen == ""


def test_nothing_shows_where_there_is_no_terminal():
    output, errors = run(program(wait=0.0, layers=1))
    assert float(output) and errors == ""


def test_plain_lines_on_request():
    output, errors = run(program("progress=True", layers=1))
    assert float(output)
    lines = errors.splitlines()
    assert all(re.fullmatch(r"metagrad: .* \(after \d+\.\d s\)", line) for line in lines[:-1])
    stages = [line.split(": ")[1].split(" (")[0] for line in lines[:-1]]
    assert stages[0] == "tracing the step" and stages[-1] == "compiling with XLA"
    assert "differentiating @outer_vjp with Enzyme" in stages
    assert re.fullmatch(r"metagrad: done in \d+\.\d s", lines[-1])


def test_an_error_stays_readable():
    code = program(inside="raise ValueError('no such step')", wait=0.0, layers=1)
    code = code.replace("print(float(mg", "try:\n    float(mg").replace(".value))", ".value)")
    code += "\nexcept ValueError as error:\n    print(error)"
    output, seen = on_a_terminal(code)
    assert output == "no such step\n" and screen(seen) == []


def test_what_is_printed_to_a_pipe_goes_there():
    output, seen = on_a_terminal(program(inside="print('tracing')", wait=0.0, layers=1))
    assert "tracing\n" in output and "tracing\n" not in seen.replace("\r", "")


def test_an_option_that_is_none():
    import jax.numpy as jnp

    import metagrad

    step = metagrad.compile(lambda w, z, x: w)
    with pytest.raises(ValueError, match="progress='yes' is none of None, True and False"):
        step.metagradient(jnp.sum, progress="yes")
