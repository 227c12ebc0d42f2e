"""The Enzyme worker: the process in which Enzyme's library runs.

The library can abort (a loop with 32-bit counters is enough), and an abort must not take the user's interpreter along.  So it lives in a child process that
starts at the first compilation, is reused by the next ones, and is replaced if it dies.  Started as a script, so that the child imports nothing of
metagrad and of the user's program.
"""

from __future__ import annotations

import atexit
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import tempfile
import threading

TIMEOUT = 300.0
"""Seconds that one function may take; the largest model measured (a 4-layer GPT) takes under one."""


class EnzymeError(RuntimeError):
    """Enzyme could not differentiate a function. The message is the library's own."""


class EnzymeWorker:
    """One child process; `run` sends it a module and a pipeline and waits for the result."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._connection: multiprocessing.connection.Connection | None = None
        self._stderr = None
        self._owner = os.getpid()
        self._lock = threading.Lock()

    def run(self, function: str, module: str, pipeline: str, timeout: float = TIMEOUT) -> str:
        """Runs an MLIR pass pipeline in the child.

        Args:
          function: name of the module's public function.
          module: text of the module.
          pipeline: MLIR pass pipeline.
          timeout: seconds to wait before the child is stopped.

        Returns:
          The module's text after the pipeline.

        Raises:
          EnzymeError: the library reported an error, died, or took longer than `timeout`. The next call starts a new child.
        """
        with self._lock:
            self._ensure_started()
            late = threading.Event()
            timer = threading.Timer(timeout, self._end_late, (self._process, late))
            timer.daemon = True
            timer.start()
            try:
                # A child that hangs does not read either, and a large module does not fit into the pipe: sending is under the limit as well.
                self._connection.send((function, module, pipeline))
                worked, answer = self._connection.recv()
            except (EOFError, ConnectionError, OSError):
                epitaph = self._epitaph(function)
                raise EnzymeError(f"Enzyme took longer than {timeout:g} s on @{function}" if late.is_set() else epitaph) from None
            except BaseException:
                # A Ctrl-C while waiting: the answer would come to the next call, which asked for something else.
                self._stop()
                raise
            finally:
                timer.cancel()
        if not worked:
            raise EnzymeError(f"Enzyme refused @{function}: {answer}")
        return answer

    @staticmethod
    def _end_late(process: subprocess.Popen, late: threading.Event) -> None:
        late.set()
        process.kill()

    def start(self) -> None:
        """Starts the child without waiting for it, so that it loads the library while the caller traces."""
        with self._lock:
            self._ensure_started()

    def _ensure_started(self) -> None:
        if self._owner != os.getpid():
            # A forked process must not share its parent's child.
            self._process = self._connection = None
            self._owner = os.getpid()
        if self._process is not None and self._process.poll() is None:
            return
        self._connection, theirs = multiprocessing.connection.Pipe()
        self._stderr = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._stderr,
            stderr=self._stderr,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
        theirs.close()

    def _epitaph(self, function: str) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        said = [line for line in self._stderr.read().decode(errors="replace").splitlines() if line.strip()]
        self._stop()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        reason = next((line for line in said if "ERROR" in line), said[-1] if said else "it said nothing")
        return f"Enzyme's library ended its process on @{function} ({how}): {reason}"

    def _stop(self) -> None:
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.wait()
            self._connection.close()
            self._stderr.close()
        self._process = self._connection = self._stderr = None


WORKER = EnzymeWorker()
atexit.register(WORKER._stop)


def _serve(descriptor: int) -> None:
    """The child: answers (function, module, pipeline) with (True, text) or (False, message) until the parent closes the pipe."""
    # The parent's Ctrl-C is the parent's affair.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = multiprocessing.connection.Connection(descriptor)
    from enzyme_ad.jax import enzyme_call

    while True:
        try:
            function, module, pipeline = connection.recv()
        except EOFError:
            return
        try:
            answer = True, enzyme_call.run_pass_pipeline([function], module, pipeline)[1]
        except Exception as error:  # whatever the library raises is an answer, not the end of the worker
            answer = False, f"{type(error).__name__}: {error}"
        connection.send(answer)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
