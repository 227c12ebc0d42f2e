"""What type checkers say of programs that use metagrad: mypy, and pyright in its PyPI edition.

The programs lie in programs/. They are copied to a folder outside of the tree first, and checked
with this environment's interpreter: so the checkers find the package, and that it has types, as
they do for a user, in an editable install too.
"""

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = Path(__file__).parent / "programs"
CORRECT = ("annotated.py", "without_annotations.py", "readme.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The programs, and the README's example, in a folder of their own."""
    folder = tmp_path_factory.mktemp("programs")
    for program in PROGRAMS.glob("*.py"):
        shutil.copy(program, folder)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(import jax.*?)```", readme, re.DOTALL).group(1)
    (folder / "readme.py").write_text(example, encoding="utf-8")
    return folder


def run(command, folder):
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def mypy(folder):
    """{program: {line: message}} of mypy."""
    command = [sys.executable, "-m", "mypy", "--config-file=", "--hide-error-context", "."]
    done = run([*command, "--check-untyped-defs", "--no-error-summary"], folder)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    errors = re.findall(r"^(\w+\.py):(\d+): error: (.*)$", done.stdout, re.MULTILINE)
    return by_program((name, int(line), message) for name, line, message in errors)


@pytest.fixture(scope="module")
def pyright(folder):
    """{program: {line: message}} of pyright."""
    settings = {"typeCheckingMode": "standard"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable]
    done = run([*command, "--level", "error"], folder)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return by_program(
        (
            Path(error["file"]).name,
            error["range"]["start"]["line"] + 1,
            error["message"],
        )
        for error in json.loads(done.stdout)["generalDiagnostics"]
    )


def by_program(errors):
    programs: dict[str, dict[int, str]] = {}
    for name, line, message in errors:
        programs.setdefault(name, {}).setdefault(line, message)
    return programs


@pytest.fixture(params=["mypy", "pyright"])
def errors(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("program", CORRECT)
def test_a_correct_program_has_no_errors(errors, program):
    assert errors.get(program, {}) == {}


def test_each_mistake_is_an_error_and_nothing_else_is(errors):
    lines = (PROGRAMS / "mistakes.py").read_text(encoding="utf-8").splitlines()
    expected = {number for number, line in enumerate(lines, 1) if line.endswith("# error")}
    assert len(expected) > 20
    messages = errors["mistakes.py"]
    assert messages.keys() == expected, {n: messages.get(n) for n in messages.keys() ^ expected}


@pytest.mark.parametrize("program", ["annotated.py", "without_annotations.py"])
def test_the_correct_programs_run(program, capsys):
    """So that what is called correct is."""
    runpy.run_path(str(PROGRAMS / program))
