"""The Enzyme worker: one process for all calls, and an error, not a dead interpreter, where the
library refuses, dies or hangs.
"""

import os
import pathlib
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import metagrad
from metagrad.compiler import opt
from metagrad.compiler.enzyme.worker import EnzymeError, EnzymeWorker

PIPELINE = (
    "enzyme-hlo-opt,enzyme,canonicalize,remove-unnecessary-enzyme-ops,enzyme-simplify-math,"
    "canonicalize,symbol-dce"
)

GRADIENT = """
module {
  func.func public @inner(%x: tensor<3xf32>) -> tensor<3xf32> {
    %one = stablehlo.constant dense<1.0> : tensor<f32>
    %g = "enzyme.autodiff"(%x, %one)
        {fn = @loss, activity = [#enzyme<activity<enzyme_active>>],
        ret_activity = [#enzyme<activity<enzyme_activenoneed>>]} : (tensor<3xf32>, tensor<f32>)
        -> tensor<3xf32>
    return %g : tensor<3xf32>
  }
  func.func private @loss(%x: tensor<3xf32>) -> tensor<f32> {
    BODY
    %l = stablehlo.dot_general %y, %y, contracting_dims = [0] x [0]
        : (tensor<3xf32>, tensor<3xf32>) -> tensor<f32>
    return %l : tensor<f32>
  }
}
"""

SINE = GRADIENT.replace("BODY", "%y = stablehlo.sine %x : tensor<3xf32>")

# A loop whose counter has 32 bits aborts the library; `widen-counters` sees to it that none
# arrives.
ABORTS = GRADIENT.replace(
    "BODY",
    """
    %zero = stablehlo.constant dense<0> : tensor<i32>
    %turn = stablehlo.constant dense<1> : tensor<i32>
    %turns = stablehlo.constant dense<5> : tensor<i32>
    %r:2 = stablehlo.while(%i = %zero, %h = %x) : tensor<i32>, tensor<3xf32>
    cond {
      %c = stablehlo.compare LT, %i, %turns : (tensor<i32>, tensor<i32>) -> tensor<i1>
      stablehlo.return %c : tensor<i1>
    } do {
      %n = stablehlo.tanh %h : tensor<3xf32>
      %j = stablehlo.add %i, %turn : tensor<i32>
      stablehlo.return %j, %n : tensor<i32>, tensor<3xf32>
    }
    %y = stablehlo.sine %r#1 : tensor<3xf32>""",
)


def pid(worker: EnzymeWorker) -> int:
    return worker._process.pid


def gone(process: int) -> bool:
    """Whether the process is gone.

    One that has ended and was not waited for still counts as there.
    """
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture(scope="module")
def shared():
    worker = EnzymeWorker()
    yield worker
    worker.stop()


@pytest.fixture
def worker(shared):
    """A worker that has worked. If a test ended its process, the next test starts another."""
    works(shared)
    return shared


def works(worker: EnzymeWorker) -> None:
    text = worker.run("inner", SINE, PIPELINE)
    assert "stablehlo.cosine" in text and "enzyme." not in text


def test_one_process_for_all_calls(worker):
    first = pid(worker)
    works(worker)
    assert pid(worker) == first


def test_a_module_that_it_refuses(worker):
    first = pid(worker)
    with pytest.raises(EnzymeError, match=r"^Enzyme refused @inner: .+"):
        worker.run("inner", "this is no module", PIPELINE)
    with pytest.raises(EnzymeError, match=r"^Enzyme refused @inner: .+"):
        worker.run("inner", SINE, "no-such-pass")
    works(worker)
    assert pid(worker) == first, (
        "an error that the library reports is no reason for another process"
    )


def test_killed_between_calls(worker):
    """The next call does not even notice."""
    first = pid(worker)
    os.kill(first, signal.SIGKILL)
    worker._process.wait()
    works(worker)
    assert pid(worker) != first and gone(first)


def test_killed_between_calls_and_not_yet_noticed(worker):
    """Killed this very moment: the call may still find the process alive, and must say so or start
    another, never hang.
    """
    first = pid(worker)
    os.kill(first, signal.SIGKILL)
    try:
        works(worker)
    except EnzymeError as error:
        assert "SIGKILL" in str(error)
        works(worker)
    assert pid(worker) != first


def test_killed_during_a_call(worker):
    first = pid(worker)
    os.kill(first, signal.SIGSTOP)  # so that the call is surely under way when the process dies
    killer = threading.Timer(0.3, os.kill, (first, signal.SIGKILL))
    killer.start()
    with pytest.raises(
        EnzymeError, match=r"^Enzyme's library ended its process on @inner \(signal SIGKILL\): .+"
    ):
        worker.run("inner", SINE, PIPELINE)
    killer.join()
    works(worker)
    assert pid(worker) != first and gone(first)


def test_the_library_aborts(worker):
    """The message has the signal and the line of what the library said that tells why."""
    first = pid(worker)
    with pytest.raises(
        EnzymeError,
        match=(
            r"^Enzyme's library ended its process on @inner \(signal SIGABRT\): LLVM ERROR: Failed "
            r"to infer result type"
        ),
    ):
        worker.run("inner", ABORTS, PIPELINE)
    works(worker)
    assert pid(worker) != first and gone(first)


def test_out_of_memory(worker):
    """The library does not survive it, however it shows; the message names the function, and the
    next call works.
    """
    first = pid(worker)
    used = int(pathlib.Path(f"/proc/{first}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(first, resource.RLIMIT_AS, (used + 2**20, used + 2**20))
    with pytest.raises(
        EnzymeError,
        match=(
            r"^Enzyme's library ended its process on @inner \(.+\): .*(out of memory|Resource "
            r"temporarily unavailable)"
        ),
    ):
        worker.run("inner", SINE + "// " + "x" * 2**26, PIPELINE)
    works(worker)
    assert pid(worker) != first and gone(first)


@pytest.mark.parametrize(
    "module", [SINE, SINE + "// " + "x" * 2**21], ids=["small", "larger than a pipe"]
)
def test_time_limit(worker, module):
    first = pid(worker)
    os.kill(first, signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(EnzymeError, match=r"^Enzyme took longer than 0.2 s on @inner$"):
        worker.run("inner", module, PIPELINE, timeout=0.2)
    assert time.monotonic() - start < 10
    assert gone(first), "the process that took too long is stopped"
    works(worker)
    assert pid(worker) != first


def test_a_time_limit_that_is_kept_is_forgotten(worker):
    works(worker)
    clocks = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    for clock in clocks:
        clock.join(5)
    assert not any(clock.is_alive() for clock in clocks)


def test_interrupted_while_waiting(worker, monkeypatch):
    """A Ctrl-C: the answer that is still to come must not be taken for the next call's."""
    first = pid(worker)
    os.kill(first, signal.SIGSTOP)

    def interrupt(limit):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(worker._connection, "recv_bytes", interrupt)
        with pytest.raises(KeyboardInterrupt):
            worker.run("inner", SINE, PIPELINE)
    works(worker)
    assert pid(worker) != first


def test_calls_from_several_threads(worker):
    """They take turns; each gets its own answer."""
    names = ["sine", "cosine", "tanh", "exponential"]
    answers = {}

    def ask(name):
        module = (
            f"func.func public @{name}(%x: tensor<f32>) -> tensor<f32> {{ %y = stablehlo.{name} %x "
            ": tensor<f32> return %y : tensor<f32> }"
        )
        answers[name] = worker.run(name, module, "canonicalize")

    threads = [threading.Thread(target=ask, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: f"stablehlo.{name}" in answers[name] for name in names} == dict.fromkeys(
        names, True
    )


def alone(script: str) -> subprocess.CompletedProcess:
    """Runs a script that has `WORKER`, in a process without JAX, which starts slowly and has
    threads.
    """
    package = pathlib.Path(metagrad.__file__).parent
    script = (
        "import os, signal, sys, types\n"
        "package = sys.modules['metagrad'] = types.ModuleType('metagrad')\n"
        f"package.__path__ = [{str(package)!r}]\n"
        "from metagrad.compiler.enzyme.worker import WORKER\n"
        "assert 'jax' not in sys.modules\n" + textwrap.dedent(script)
    )
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )


def test_a_forked_process_has_a_worker_of_its_own():
    """A fork must neither talk to its parent's process nor end it."""
    done = alone("""
        def ask():
            WORKER.run("f", "func.func public @f() { return }", "canonicalize")
            return WORKER._process.pid
        first = ask()
        child = os.fork()
        if child == 0:
            second = ask()
            WORKER.stop()
            os._exit(0 if second != first else 3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert ask() == first""")
    assert done.returncode == 0, done.stderr


def test_a_fork_while_another_thread_compiles():
    """The lock that the thread holds, and will never give back in the forked process, is not in its
    way.
    """
    done = alone("""
        import threading
        started = threading.Event()
        WORKER.run("f", "func.func public @f() { return }", "canonicalize")
        os.kill(WORKER._process.pid, signal.SIGSTOP)
        send = WORKER._connection.send_bytes
        WORKER._connection.send_bytes = lambda request: (send(request), started.set())
        call = ("f", "func.func public @f() { return }", "canonicalize")
        thread = threading.Thread(target=WORKER.run, args=call)
        thread.start()
        started.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            WORKER.run("f", "func.func public @f() { return }", "canonicalize")
            WORKER.stop()
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.kill(WORKER._process.pid, signal.SIGCONT)
        thread.join()
        assert code == 0, code""")
    assert done.returncode == 0, done.stderr


def test_a_stopped_worker_leaves_nothing_behind():
    worker = EnzymeWorker()
    works(worker)
    process = pid(worker)
    worker.stop()
    assert gone(process)


def test_the_worker_ends_with_its_parent():
    """However the parent ends, SIGKILL included: the child reads the end of the pipe."""
    done = alone("""
        WORKER.run("f", "func.func public @f() { return }", "canonicalize")
        print(WORKER._process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)""")
    assert done.returncode == -signal.SIGKILL
    # A process that has ended but for being waited for, which is another's affair now, has no
    # command line.
    command = pathlib.Path(f"/proc/{int(done.stdout)}/cmdline")
    deadline = time.monotonic() + 30
    while command.exists() and command.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_command_line_reports_an_abort(tmp_path, capsys):
    """`metagrad-opt` on a file whose loops were not widened: a message and exit code 1."""
    file = tmp_path / "loop.mlir"
    file.write_text(ABORTS)
    assert opt.main([str(file), "--pass=expand"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(
        "metagrad-opt: Enzyme's library ended its process on @inner (signal SIGABRT)"
    )
    assert opt.main([str(file), "--pass=widen-counters,counters-first,expand"]) == 0
    assert "enzyme." not in capsys.readouterr().out
