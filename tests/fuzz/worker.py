"""The process in which programs are compared, and the parent's side of it.

Python's startup, JAX and Enzyme's own worker stay warm between programs. A process that is too slow
or dies is replaced: that is a verdict on the program, not the end of the fuzzer.
"""

import importlib
import multiprocessing.connection
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from fast_xla import FAST

LIMIT = 120.0
"""Seconds for one program. The slowest take ten on an idle core; a machine may be busy."""

LIFE = 400
"""Programs before a process is replaced: JAX and XLA keep some memory for each."""

CLEARED = 40
"""Programs before JAX's caches are cleared.

Small operations outside of `jit` are compiled once while they last.
"""

FLAGS = f"{FAST} --xla_cpu_parallel_codegen_split_count=1 --xla_force_host_platform_device_count=1"


OURS = "JAX has its gradient"
"""What the child says before it takes the metagradient: what kills it earlier is JAX's affair."""


class Worker:
    """One child.

    `setup` names a function, "module:function", that the child calls first: tests plant a bug with
    it.
    """

    def __init__(self, setup=None, limit=LIMIT):
        self.setup, self.limit = setup, limit
        self.process, self.done = None, 0

    def _start(self):
        package = __package__
        root = os.path.abspath(
            os.path.join(os.path.dirname(__file__), *[".."] * len(package.split(".")))
        )
        self.connection, theirs = multiprocessing.connection.Pipe()
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                f"{package}.worker",
                str(theirs.fileno()),
                *([self.setup] if self.setup else []),
            ],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self.stderr,
            stderr=self.stderr,
            env=os.environ
            | {
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": FLAGS,
                "PYTHONPATH": path,
                "METAGRAD_CACHE": "0",
            },
        )
        theirs.close()
        self.done = 0

    def ask(self, what, *arguments):
        """The child's answer to ("generate", seed, number) or ("compare", program)."""
        if self.process is None or self.done >= LIFE:
            self.stop()
            self._start()
        self.done += 1
        ours = False
        try:
            self.connection.send((what, *arguments))
            while True:
                if not self.connection.poll(self.limit):
                    self.stop()
                    return {
                        "class": "hang" if ours else "invalid",
                        "detail": f"no answer in {self.limit:g} s",
                    }
                answer = self.connection.recv()
                if answer != OURS:
                    return answer
                ours = True
        except (EOFError, OSError):
            code = self.process.wait()
            self.stderr.seek(0)
            lines = self.stderr.read().decode(errors="replace").strip().splitlines()
            self.stop()
            reason = next(
                (line for line in lines if "Check failed" in line or "ERROR" in line),
                lines[-1] if lines else "it said nothing",
            )
            return {
                "class": "died" if ours else "invalid",
                "detail": f"exit code {code}: {reason.partition('] ')[2] or reason}",
            }

    def compare(self, program):
        return self.ask("compare", program)

    def generate(self, seed, number):
        return self.ask("generate", seed, number)

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.connection.close()
            self.stderr.close()
            self.process = None


def _serve(descriptor, setup):
    import jax

    from . import compare, generate

    jax.config.update("jax_enable_x64", True)
    if setup:
        module, _, function = setup.partition(":")
        getattr(importlib.import_module(module, __package__), function)()
    connection = multiprocessing.connection.Connection(descriptor)
    answers = {
        "compare": lambda program: compare.compare(program, lambda: connection.send(OURS)),
        "generate": generate.program,
    }
    count = 0
    while True:
        try:
            what, *arguments = connection.recv()
        except EOFError:
            return
        connection.send(answers[what](*arguments))
        count += what == "compare"
        if count % CLEARED == CLEARED - 1:
            jax.clear_caches()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
