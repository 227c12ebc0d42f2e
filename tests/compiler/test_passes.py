"""Runs the files in passes/: each says in its RUN lines how `metagrad-opt` is called, and in its
CHECK lines what comes out.

    // RUN: metagrad-opt %s --pass=cut | filecheck %s
    // RUN: not metagrad-opt %s --pass=mend 2>&1 | filecheck %s --check-prefix=UNKNOWN

The commands run in this process, which saves an interpreter's start for each of them.
"""

import contextlib
import io
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from filecheck.finput import FInput
from filecheck.matcher import Matcher
from filecheck.options import parse_argv_options
from filecheck.parser import Parser

from metagrad.compiler import opt

FILES = sorted((pathlib.Path(__file__).parent / "passes").glob("*.mlir"))

RUN = re.compile(
    r"// RUN: (?P<fails>not )?metagrad-opt (?P<arguments>.*?)(?P<errors> 2>&1)? \| filecheck "
    r"(?P<checks>.*)"
)


def commands():
    for file in FILES:
        lines = [line for line in file.read_text().splitlines() if line.startswith("// RUN:")]
        for number, line in enumerate(lines):
            yield pytest.param(
                file, line, id=file.stem if len(lines) == 1 else f"{file.stem}-{number}"
            )


@pytest.mark.parametrize("file, line", list(commands()))
def test_pass(file, line, capsys):
    run_line = RUN.fullmatch(line)
    assert run_line, f"this is no RUN line: {line}"
    arguments, checks = (
        shlex.split(run_line[part].replace("%s", str(file))) for part in ("arguments", "checks")
    )
    out = io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out) if run_line["errors"] else contextlib.nullcontext(),
    ):
        code = opt.main(arguments)
    assert bool(code) == bool(run_line["fails"]), out.getvalue() + capsys.readouterr().err
    options = parse_argv_options(["filecheck", *checks])
    wrong = Matcher(options, FInput("-", out.getvalue()), Parser.from_opts(options)).run()
    assert not wrong, f"{capsys.readouterr().err}\nThe output was\n{out.getvalue()}"


def test_every_pass_has_a_file():
    used = {
        name
        for file in FILES
        for passes in re.findall(r"--pass='?([\w,-]+)", file.read_text())
        for name in passes.split(",")
    }
    assert set(opt.PASSES) <= used


def test_command_line():
    """Once as a user calls it: a process of its own, the module from the standard input."""
    file = next(file for file in FILES if file.stem == "cut")
    command = [sys.executable, "-m", "metagrad.compiler.opt", "-", "--pass=cut"]
    done = subprocess.run(command, input=file.read_text(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "func.func private @update" in done.stdout

    done = subprocess.run(
        [*command[:-1], "--pass=mend"], input=file.read_text(), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("metagrad-opt: there is no pass 'mend'")
