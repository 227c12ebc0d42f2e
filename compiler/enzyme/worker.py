"""The Enzyme worker: the process in which Enzyme's library runs.

The library can abort (a loop with 32-bit counters is enough), hang or run out of memory, and none of it must take the user's interpreter along.  So it lives
in a child process that starts when it is first needed, is reused by later calls, and is replaced if it dies.  It is started as a script and loads the library
alone, not the package around it: nothing of metagrad, of JAX or of the user's program, which would take most of its starting time.

Parent and child speak JSON over a pipe of their own, so that what the library prints is not taken for an answer and a garbled answer can do no harm.
"""

from __future__ import annotations

import atexit
import functools
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import math
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import tempfile
import threading

TIMEOUT = 300.0
"""Seconds that one function may take; the largest model measured (a 4-layer GPT) takes under one."""

LARGEST = 2**29
"""Bytes of an answer. Text that got onto the pipe by accident reads as a length above it, and is found out at once."""

NO_LIBRARY = os.EX_UNAVAILABLE
"""The child's exit code when the library cannot be loaded."""

NO_MEMORY = os.EX_OSERR
"""The child's exit code when memory has run out and Python noticed. More often the library aborts, or the system kills the child."""


class EnzymeError(RuntimeError):
    """Enzyme could not differentiate a function. The message names the function and has the library's own words.

    Attributes:
      function: name of the module's function, once the compiler has told.
    """

    function: str | None = None


class EnzymeWorker:
    """One child process; `run` sends it a module and a pipeline and waits for the result."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._connection: multiprocessing.connection.Connection | None = None
        self._said = None
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
          EnzymeError: the library is not installed, reported an error, died, spoke nonsense or took longer than `timeout`. The next call starts a new child if
            this one is lost.
        """
        with self._lock:
            self._ensure_started(function)
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
                # A child that hangs does not read either, and a large module does not fit into the pipe: sending is under the limit as well.
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
                # A Ctrl-C while waiting: the answer would come to the next call, which asked for something else.
                self._stop()
                raise
            finally:
                timer.cancel()
        if not worked:
            raise EnzymeError(f"Enzyme refused @{function}: {answer}")
        return answer

    def _answer(self) -> tuple[bool, str]:
        """What the child answers to the present call.

        Raises:
          ValueError: this is no answer to it.
          OSError, EOFError: nothing comes any more, or what comes is not a message.
        """
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
            # What the library said in earlier calls must not explain the end of this one.
            self._said.seek(0)
            self._said.truncate()
            return
        self._stop()
        path = library()
        self._connection, theirs = multiprocessing.connection.Pipe()
        self._said = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno()), path],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
            )
        except OSError as error:
            self._stop()
            raise EnzymeError(
                f"Enzyme's process for @{function} cannot be started: {error}"
            ) from None
        finally:
            theirs.close()

    def _epitaph(self, function: str, error: Exception) -> str:
        """Stops the child, and says how it ended or what was wrong with what it sent."""
        # A process that closes the pipe is about to end; one that sent nonsense may well go on.
        try:
            code = self._process.wait(3 if isinstance(error, (EOFError, ConnectionError)) else 0.1)
        except subprocess.TimeoutExpired:
            code = None
        self._said.seek(0)
        said = [
            line for line in self._said.read().decode(errors="replace").splitlines() if line.strip()
        ]
        self._stop()
        reason = next(
            (line for line in said if "ERROR" in line), said[-1] if said else "it said nothing"
        )
        if code is None:
            return f"Enzyme's process answered nonsense on @{function} ({str(error) or 'it closed the pipe'}) and was stopped; it said: {reason}"
        if code == NO_LIBRARY:
            return f"Enzyme's library cannot be loaded for @{function}: {reason}. Install it anew: pip install --force-reinstall enzyme-ad"
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if code == -signal.SIGKILL:
            reason += "; a system that runs out of memory ends processes in this way"
        return f"Enzyme's library ended its process on @{function} ({how}): {reason}"

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._forget()

    def _forget(self) -> None:
        for held in (self._connection, self._said):
            if held is not None:
                held.close()
        self._process = self._connection = self._said = None

    def _after_fork(self) -> None:
        """A forked process must not share its parent's child, nor a lock that another thread of the parent held."""
        if self._process is not None:
            # It is not ours to wait for; without this, Popen would warn that nobody did.
            self._process.returncode = 0
        self._forget()
        self._lock = threading.Lock()


WORKER = EnzymeWorker()
atexit.register(WORKER._stop)
os.register_at_fork(after_in_child=WORKER._after_fork)


@functools.cache
def library() -> str:
    """Path of Enzyme's library: the extension module of the package `enzyme-ad`.

    Raises:
      EnzymeError: it is not installed.
    """
    package = importlib.util.find_spec("enzyme_ad")
    for folder in (package.submodule_search_locations or ()) if package else ():
        for suffix in importlib.machinery.EXTENSION_SUFFIXES:
            path = os.path.join(folder, "jax", f"enzyme_call{suffix}")
            if os.path.isfile(path):
                return path
    raise EnzymeError(
        "Enzyme is not installed. Install it (pip install enzyme-ad==0.0.16, which has wheels for Python 3.11), or let JAX differentiate: metagrad.compile(ad='jax')"
    )


@functools.cache
def identity() -> str:
    """What tells this build of the library from another: its version, and the digest that the wheel gives for the file.

    Raises:
      EnzymeError: it is not installed.
    """
    path = library()
    try:
        package = importlib.metadata.distribution("enzyme-ad")
        digests = [
            file.hash.value
            for file in package.files or ()
            if file.name == os.path.basename(path) and file.hash
        ]
        return f"enzyme-ad {package.version} {digests}"
    except importlib.metadata.PackageNotFoundError:
        stat = os.stat(path)
        return f"enzyme-ad {stat.st_size} {stat.st_mtime_ns}"


def _load(path: str):
    loader = importlib.machinery.ExtensionFileLoader("enzyme_call", path)
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_file_location("enzyme_call", path, loader=loader)
    )
    loader.exec_module(module)
    return module


def _serve(descriptor: int, path: str) -> None:
    """The child: answers each request with a text or an error's message, until the parent closes the pipe."""
    # The parent's Ctrl-C is the parent's affair.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever the parent did with this signal: here it ends the process.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    connection = multiprocessing.connection.Connection(descriptor)
    try:
        enzyme = _load(path)
    except Exception as error:
        _exit(NO_LIBRARY, f"ERROR: {error}")
    try:
        while _answer_one(connection, enzyme):
            pass
    except MemoryError:
        _exit(NO_MEMORY, "ERROR: out of memory")


def _answer_one(connection: multiprocessing.connection.Connection, enzyme) -> bool:
    try:
        request = json.loads(connection.recv_bytes())
    except EOFError:
        return False
    # If the parent dies meanwhile nobody else stops a pass that hangs.
    signal.alarm(math.ceil(request["timeout"]) + 10)
    try:
        worked, text = (
            True,
            enzyme.run_pass_pipeline([request["function"]], request["module"], request["pipeline"])[
                1
            ],
        )
    except MemoryError:
        raise
    except (
        Exception
    ) as error:  # whatever the library raises is an answer, not the end of the worker
        worked, text = False, f"{type(error).__name__}: {error}"
    signal.alarm(0)
    connection.send_bytes(
        json.dumps({"call": request["call"], "worked": worked, "text": text}).encode()
    )
    return True


def _exit(code: int, message: str) -> None:
    print(message, file=sys.stderr, flush=True)
    # At once: what is left of the library is not worth taking down in order.
    os._exit(code)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2])
