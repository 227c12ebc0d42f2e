"""The commands on the page about the command line print what it shows."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent.parent / "docs" / "command_line.md"
TEXT = PAGE.read_text(encoding="utf-8")
SESSIONS = re.findall(
    r"^```console\n\$ metagrad ([^\n]*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE
)
FILES = re.findall(r'^```python title="([^"]*)"\n(.*?)^```$', TEXT, re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path):
    """Where the files are that the page shows."""
    for name, text in FILES:
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("command, shown", SESSIONS, ids=[c.split()[0] for c, _ in SESSIONS])
def test_a_command_prints_what_is_shown(command, shown, folder):
    done = subprocess.run(
        [sys.executable, "-m", "metagrad", *shlex.split(command)],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )
    assert done.stderr == ""
    assert done.stdout == shown


def test_there_are_sessions_and_files():
    assert {command.split()[0] for command, _ in SESSIONS} == {"plan", "ir"}
    assert [name for name, _ in FILES] == ["train.py"]
