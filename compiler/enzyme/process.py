"""The script that Enzyme's process runs: loads the library, checks it, and answers over a pipe.

    python process.py DESCRIPTOR LIBRARY [SHIM]

It imports nothing of metagrad, so that another Python than the user's can run it (interpreter.py).

Of the library it calls `run_pass_pipeline` only, which takes and gives strings: functions that take
integers do not work in Python 3.12 and later, where an int has another layout.

Before the first answer the library differentiates a function of two numbers, once and twice, and
the results are compared with numbers worked out by hand. What it answers is evaluated here, because
the library does not fold constants of floating point.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import json
import math
import multiprocessing.connection
import os
import re
import signal
import sys

NO_LIBRARY = os.EX_UNAVAILABLE
"""The exit code when the library cannot be loaded."""

WRONG_LIBRARY = os.EX_SOFTWARE
"""The exit code when the library gives a wrong derivative in the check."""

NO_MEMORY = os.EX_OSERR
"""The exit code when memory has run out and Python noticed.

More often the library aborts, or the system kills the process."""

_CHECK_SECONDS = 60

# The gradient of x x y, and its tangent in the direction (a, b).
_CHECK = """
func.func public @check(%x: tensor<f64>, %y: tensor<f64>, %a: tensor<f64>, %b: tensor<f64>)
    -> (tensor<f64>, tensor<f64>, tensor<f64>, tensor<f64>) {
  %g:2 = func.call @gradient(%x, %y) : (tensor<f64>, tensor<f64>) -> (tensor<f64>, tensor<f64>)
  %t:2 = "enzyme.fwddiff"(%x, %a, %y, %b) <{fn = @gradient,
    activity = [#enzyme<activity<enzyme_dup>>, #enzyme<activity<enzyme_dup>>],
    ret_activity = [#enzyme<activity<enzyme_dupnoneed>>, #enzyme<activity<enzyme_dupnoneed>>]}>
    : (tensor<f64>, tensor<f64>, tensor<f64>, tensor<f64>) -> (tensor<f64>, tensor<f64>)
  return %g#0, %g#1, %t#0, %t#1 : tensor<f64>, tensor<f64>, tensor<f64>, tensor<f64>
}
func.func private @gradient(%x: tensor<f64>, %y: tensor<f64>) -> (tensor<f64>, tensor<f64>) {
  %one = stablehlo.constant dense<1.0> : tensor<f64>
  %g:2 = "enzyme.autodiff"(%x, %y, %one) <{fn = @loss,
    activity = [#enzyme<activity<enzyme_active>>, #enzyme<activity<enzyme_active>>],
    ret_activity = [#enzyme<activity<enzyme_activenoneed>>]}>
    : (tensor<f64>, tensor<f64>, tensor<f64>) -> (tensor<f64>, tensor<f64>)
  return %g#0, %g#1 : tensor<f64>, tensor<f64>
}
func.func private @loss(%x: tensor<f64>, %y: tensor<f64>) -> tensor<f64> {
  %xx = stablehlo.multiply %x, %x : tensor<f64>
  %xxy = stablehlo.multiply %xx, %y : tensor<f64>
  return %xxy : tensor<f64>
}
"""
_ARGUMENTS = (3.0, 5.0, 7.0, 11.0)
# 2xy and xx; 2ya + 2xb and 2xa.
_KNOWN = [30.0, 9.0, 136.0, 42.0]

_PIPELINE = (
    'enzyme{postpasses="arith-raise{stablehlo=true},canonicalize,cse,canonicalize,'
    'remove-unnecessary-enzyme-ops,enzyme-simplify-math,canonicalize"},canonicalize,'
    "remove-unnecessary-enzyme-ops,enzyme-simplify-math,"
    "inline{default-pipeline=canonicalize max-iterations=4},canonicalize,symbol-dce"
)

_ARGUMENT = re.compile(r"(%\w+): tensor<f64>")
_CONSTANT = re.compile(r"(%\w+) = stablehlo\.constant dense<(\S+)> : tensor<f64>")
_BINARY = re.compile(r"(%\w+) = stablehlo\.(add|multiply) (%\w+), (%\w+) : tensor<f64>")
_RETURN = re.compile(r"return ((?:%\w+(?:, )?)+) :")


def check(enzyme) -> str | None:
    """What is wrong with the derivatives of the library; None if nothing is."""
    text = enzyme.run_pass_pipeline(["check"], _CHECK, _PIPELINE)[1]
    try:
        results = _evaluate(text, _ARGUMENTS)
    except (KeyError, ValueError) as error:
        return f"its answer cannot be evaluated ({error})"
    if results != _KNOWN:
        return (
            f"the derivatives of x*x*y at (3, 5), in the direction (7, 11), are {_KNOWN}, and it \
says {results}"
        )
    return None


def _evaluate(text: str, arguments: tuple[float, ...]) -> list[float]:
    """The results of a function of numbers that adds and multiplies.

    Raises:
      ValueError, KeyError: it is none.
    """
    values: dict[str, float] = {}
    for line in map(str.strip, text.splitlines()):
        if line.startswith("func.func"):
            values = dict(zip(_ARGUMENT.findall(line), arguments, strict=True))
        elif constant := _CONSTANT.match(line):
            values[constant[1]] = float(constant[2])
        elif op := _BINARY.match(line):
            left, right = values[op[3]], values[op[4]]
            values[op[1]] = left + right if op[2] == "add" else left * right
        elif returned := _RETURN.match(line):
            return [values[name] for name in returned[1].split(", ")]
        elif line.startswith("%"):
            raise ValueError(f"it has the op {line}")
    raise ValueError("it returns nothing")


def _load(path: str, shim: str | None):
    if shim is not None:
        ctypes.CDLL(shim, mode=ctypes.RTLD_GLOBAL)
    loader = importlib.machinery.ExtensionFileLoader("enzyme_call", path)
    spec = importlib.util.spec_from_loader("enzyme_call", loader, origin=path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _serve(descriptor: int, path: str, shim: str | None = None) -> None:
    """Answers each request with a text or an error's message, until the parent closes the pipe."""
    # The parent's Ctrl-C is the parent's affair.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever the parent did with this signal: here it ends the process.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    connection = multiprocessing.connection.Connection(descriptor)
    try:
        enzyme = _load(path, shim)
    except Exception as error:
        _exit(NO_LIBRARY, f"ERROR: {error}")
    # If the parent dies meanwhile, only this stops a library that hangs.
    signal.alarm(_CHECK_SECONDS)
    try:
        wrong = check(enzyme)
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
    signal.alarm(0)
    if wrong is not None:
        _exit(WRONG_LIBRARY, f"ERROR: {' '.join(wrong.split())}")
    try:
        while _answer_one(connection, enzyme):
            pass
    except MemoryError:
        _exit(NO_MEMORY, "ERROR: out of memory")
    # At once: what is left of the library is not worth taking down in order.
    os._exit(0)


def _answer_one(connection: multiprocessing.connection.Connection, enzyme) -> bool:
    try:
        request = json.loads(connection.recv_bytes())
    except EOFError:
        return False
    # If the parent dies meanwhile, only this stops a pass that hangs.
    signal.alarm(math.ceil(request["timeout"]) + 10)
    try:
        answer = enzyme.run_pass_pipeline(
            [request["function"]], request["module"], request["pipeline"]
        )
        worked, text = True, answer[1]
    except MemoryError:
        raise
    # Whatever the library raises is an answer, not the end of the process.
    except Exception as error:
        worked, text = False, f"{type(error).__name__}: {error}"
    signal.alarm(0)
    message = {"call": request["call"], "worked": worked, "text": text}
    connection.send_bytes(json.dumps(message).encode())
    return True


def _exit(code: int, message: str) -> None:
    print(message, file=sys.stderr, flush=True)
    os._exit(code)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), *sys.argv[2:])
