"""Runs programs with and without a terminal, and reads what they left on it."""

import contextlib
import os
import pty
import re
import subprocess
import sys
import threading


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


@contextlib.contextmanager
def terminal(monkeypatch, columns=140):
    """Makes the standard error of this process a terminal, and gives a list of what it got."""
    mine, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    seen = []

    def read():
        with contextlib.suppress(OSError):
            while chunk := os.read(mine, 1 << 16):
                seen.append(chunk.decode())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with os.fdopen(theirs, "w") as stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            yield seen
    finally:
        reader.join(timeout=10)
        os.close(mine)


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
