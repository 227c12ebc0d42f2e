"""The Enzyme worker: the process in which Enzyme's library runs, as its parent sees it.

The library can abort (a loop with 32-bit counters is enough), hang or run out of memory, and none
of it must take the user's interpreter along. So it lives in a child process that starts when it is
first needed, is reused by later calls, and is replaced if it dies. The child runs a script
(process.py) that loads the library alone, and nothing of metagrad, of JAX or of the user's program,
which would take most of its starting time.

Parent and child speak JSON over a pipe of their own, so that what the library prints is not taken
for an answer and a garbled answer can do no harm.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing.connection
import os
import pathlib
import signal
import subprocess
import tempfile
import threading
from typing import IO

from metagrad.compiler.enzyme import interpreter, library
from metagrad.compiler.enzyme.error import EnzymeError
from metagrad.compiler.enzyme.process import NO_LIBRARY, WRONG_LIBRARY

SCRIPT = str(pathlib.Path(__file__).with_name("process.py"))
"""What the child runs."""

TIMEOUT = 300.0
"""Seconds that one function may take; the largest model measured (a 4-layer GPT) takes under one.
"""

LARGEST = 2**29
"""Bytes of an answer.

Text that got onto the pipe by accident reads as a length above it, and is found out at once."""

_GLIBC = "2.35"
"""The version that the library needs, whatever the tag of its wheel says."""


class EnzymeWorker:
    """One child process; `run` sends it a module and a pipeline and waits for the result."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._connection: multiprocessing.connection.Connection | None = None
        self._output: IO[bytes] | None = None
        self._calls = 0
        self._lock = threading.Lock()

    def run(self, function: str, module: str, pipeline: str, timeout: float = TIMEOUT) -> str:
        """Runs an MLIR pass pipeline in the child.

        Args:
          function: name of the module's public function.
          module: text of the module.
          pipeline: MLIR pass pipeline.
          timeout: seconds to wait before the child is stopped.

        Returns:
          The module's text after the pipeline, as the library gave it.

        Raises:
          EnzymeError: the library cannot be had, cannot be loaded, is wrong, reported an error,
            died, spoke nonsense or took longer than `timeout`. The next call starts a new child if
            this one is lost.
        """
        with self._lock:
            self._ensure_started(function)
            assert self._connection is not None
            self._calls += 1
            request = {
                "call": self._calls,
                "function": function,
                "module": module,
                "pipeline": pipeline,
                "timeout": timeout,
            }
            late = threading.Event()
            timer = threading.Timer(timeout, self._end_late, (self._process, late))
            timer.daemon = True
            timer.start()
            try:
                # A child that hangs does not read either, and a large module does not fit into
                # the pipe: sending is under the limit as well.
                self._connection.send_bytes(json.dumps(request).encode())
                worked, answer = self._answer()
            except (OSError, EOFError, ValueError) as error:
                message = self._epitaph(function, error)
                raise EnzymeError(
                    f"Enzyme took longer than {timeout:g} s on @{function}"
                    if late.is_set()
                    else message
                ) from None
            except BaseException:
                # A Ctrl-C while waiting: the answer would come to the next call, which asked for
                # something else.
                self.stop()
                raise
            finally:
                timer.cancel()
        if not worked:
            raise EnzymeError(f"Enzyme refused @{function}: {answer}")
        return answer

    def _answer(self) -> tuple[bool, str]:
        """What the child answers to the present call.

        Raises:
          ValueError: what came is not an answer to it.
          OSError, EOFError: the pipe is closed, or what came is not a message.
        """
        assert self._connection is not None
        answer = json.loads(self._connection.recv_bytes(LARGEST))
        if not isinstance(answer, dict) or answer.get("call") != self._calls:
            raise ValueError("no answer to this call")
        worked, text = answer.get("worked"), answer.get("text")
        if not isinstance(worked, bool) or not isinstance(text, str):
            raise ValueError("an answer without a text")
        return worked, text

    @staticmethod
    def _end_late(process: subprocess.Popen, late: threading.Event) -> None:
        late.set()
        process.kill()

    def _ensure_started(self, function: str) -> None:
        if self._process is not None and self._process.poll() is None:
            assert self._output is not None
            # What the library said in earlier calls must not explain the end of this one.
            self._output.seek(0)
            self._output.truncate()
            return
        self.stop()
        path = library.path()
        python = interpreter.choose()
        arguments = [path] if python.shim is None else [path, python.shim]
        self._connection, theirs = multiprocessing.connection.Pipe()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                [*python.command, SCRIPT, str(theirs.fileno()), *arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
            )
        except OSError as error:
            self.stop()
            raise EnzymeError(
                f"Enzyme's process for @{function} cannot be started: {error}"
            ) from None
        finally:
            theirs.close()

    def _epitaph(self, function: str, error: Exception) -> str:
        """Stops the child, and says how it ended or what was wrong with what it sent."""
        assert self._process is not None and self._output is not None
        # A process that closes the pipe is about to end; one that sent nonsense may well go on.
        try:
            code = self._process.wait(3 if isinstance(error, (EOFError, ConnectionError)) else 0.1)
        except subprocess.TimeoutExpired:
            code = None
        self._output.seek(0)
        output = self._output.read().decode(errors="replace")
        self.stop()
        lines = [line for line in output.splitlines() if line.strip()] or ["it said nothing"]
        reason = next((line for line in lines if "ERROR" in line), lines[-1])
        if code is None:
            nonsense = str(error) or "it closed the pipe"
            return (
                f"Enzyme's process answered nonsense on @{function} ({nonsense}) and was stopped; "
                f"it said: {reason}"
            )
        if code == NO_LIBRARY:
            return f"Enzyme's library cannot be loaded for @{function}: {reason}. {_remedy(reason)}"
        if code == WRONG_LIBRARY:
            return (
                f"Enzyme's library is wrong, so it is not used for @{function}: in the check at "
                f"its start, {reason.removeprefix('ERROR: ')}. {_remedy(reason)}"
            )
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if code == -signal.SIGKILL:
            reason += "; a system that runs out of memory ends processes in this way"
        return f"Enzyme's library ended its process on @{function} ({how}): {reason}"

    def stop(self) -> None:
        """Ends the child, if there is one. The next call starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._forget()

    def kill(self) -> None:
        """Ends the child while another thread waits for its answer; that thread gets an error."""
        process = self._process
        if process is not None:
            process.kill()

    def _forget(self) -> None:
        for resource in (self._connection, self._output):
            if resource is not None:
                resource.close()
        self._process = self._connection = self._output = None

    def _after_fork(self) -> None:
        """Forgets the parent's child, and a lock that another thread of the parent may hold."""
        if self._process is not None:
            # Only the parent can wait for it. Without this, Popen would warn that nothing did.
            self._process.returncode = 0
        self._forget()
        self._lock = threading.Lock()


def _remedy(reason: str) -> str:
    if "GLIBC_" in reason:
        return (
            f"It needs glibc {_GLIBC} or newer, as in Debian 12 and Ubuntu 22.04, and this "
            "system's "
            "is older. Let JAX differentiate: metagrad.compile(ad='jax')"
        )
    return library.locate().remedy


WORKER = EnzymeWorker()
SECOND_WORKER = EnzymeWorker()
"""For what is done beside (side_by_side.py)."""

for _worker in (WORKER, SECOND_WORKER):
    atexit.register(_worker.stop)
    os.register_at_fork(after_in_child=_worker._after_fork)
