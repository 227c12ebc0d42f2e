"""What a user sees while a metagradient is compiled, on a terminal and elsewhere."""

import os
import pty
import re
import subprocess
import sys
import textwrap

import pytest

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


def run(code, **environment):
    """(standard output, standard error) of a program whose standard error is not a terminal."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return done.stdout, done.stderr


def on_a_terminal(code, **environment):
    """(standard output, what the terminal got) of a program whose standard error is a terminal."""
    mine, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"} | environment
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(mine, 1 << 16):
            seen += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    finally:
        os.close(mine)
    output = process.stdout.read().decode()
    process.stdout.close()
    assert process.wait(timeout=60) == 0, seen.decode()
    return output, seen.decode()


def screen(written):
    """The lines left on a terminal by the codes that Rich writes: erase a line, go up, go back."""
    lines, row = [""], 0
    for part in re.split(r"(\x1b\[[?\d;]*[A-Za-z]|\r|\n)", written):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part == "\x1b[1A":
            row = max(row - 1, 0)
        elif part and not part.startswith("\x1b") and part != "\r":
            lines[row] = part
    return [line for line in lines if line.strip()]


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
