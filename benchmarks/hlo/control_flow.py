"""How often a compiled program's loops run, and how often the host is asked whether they go on.

XLA:GPU walks a program's thunks on the host. A `while` whose number of trips XLA knows is a loop of
the host's own. Before each trip of any other one the host waits for the device to have computed the
condition, and copies it: a loop of n trips asks n + 1 times. A `conditional` is asked once. What is
within a command buffer is decided on the device, and asks nothing.

The count is exact and needs no device: the program's integers are evaluated (integers.py), and its
loops are run on them. What these read of a schedule are constants in the program. A loop that
depends on data cannot be followed; then there is no count (`Undecided`).
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

from benchmarks.hlo.integers import UNKNOWN, constant, evaluate, is_followed
from benchmarks.hlo.text import FUSIONS, Array, Computation, Instruction, Module, at, leaves

Path = tuple[int, ...]


class Undecided(Exception):
    """A loop or conditional depends on data; the message names it."""


@dataclasses.dataclass(frozen=True)
class Counts:
    """What one run of a program does.

    Attributes:
      questions: how often the host waits for a condition, by the name of the loop or conditional.
      executions: how often each computation that is run as such is run, by name.
    """

    questions: dict[str, int]
    executions: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.questions.values())


def count(module: Module) -> Counts:
    """Runs the program's control flow.

    Raises:
      Undecided: it depends on data.
    """
    run = _Run(module)
    entry = module.computations[module.entry]
    _Frame(run, entry, lambda index, path: UNKNOWN).perform()
    return Counts(dict(run.questions), dict(run.executions))


def unknown_loops(module: Module) -> list[str]:
    """Names of the loops whose trips XLA does not know, and of the conditionals."""
    return [
        each.name
        for computation in module.computations.values()
        for each in computation.instructions.values()
        if _asks(each)
    ]


def _asks(each: Instruction) -> bool:
    return each.opcode == "conditional" or (each.opcode == "while" and each.trips is None)


class _Run:
    def __init__(self, module: Module):
        self.module = module
        self.questions: collections.Counter[str] = collections.Counter()
        self.executions: collections.Counter[str] = collections.Counter()
        self.control = {
            name: tuple(of.all("while", "conditional", "call"))
            for name, of in module.computations.items()
        }
        """The instructions of a computation that run other computations, in order."""
        self.asking: dict[str, bool] = {}

    def computation(self, name: str) -> Computation:
        return self.module.computations[name]

    def asks(self, each: Instruction) -> bool:
        """Whether an instruction asks something, or something in what it runs does."""
        return _asks(each) or any(self._asks_inside(name) for name in _runs(each))

    def _asks_inside(self, name: str) -> bool:
        if name not in self.asking:
            self.asking[name] = any(self.asks(each) for each in self.control.get(name, ()))
        return self.asking[name]

    def add(self, name: str, times: int) -> None:
        """Counts runs of a computation in which nothing is asked."""
        self.executions[name] += times
        for each in self.control[name]:
            for inner in _runs(each):
                self.add(inner, times * _times(each))


def _runs(each: Instruction) -> tuple[str, ...]:
    """The computations that an instruction runs, a loop's condition left out."""
    if each.opcode == "while":
        return (each.body,)
    if each.opcode == "conditional":
        return each.branches
    return (each.callee,) if each.callee else ()


def _times(each: Instruction) -> int:
    """How often an instruction in which nothing is asked runs what it runs."""
    return (each.trips or 0) if each.opcode == "while" else 1


class _Frame:
    """One run of a computation. Values are made when they are asked for, once.

    Args:
      argument: `argument(index, path)` gives a parameter's value.
      in_buffer: whether this is within a command buffer.
    """

    def __init__(
        self, run: _Run, computation: Computation, argument: Callable, in_buffer: bool = False
    ):
        self.run, self.computation = run, computation
        self.argument, self.in_buffer = argument, in_buffer
        self.values: dict[tuple[str, Path], Any] = {}
        self.results: dict[str, Callable[[Path], Any]] = {}

    def perform(self) -> None:
        """Runs all that is to be counted."""
        self.run.executions[self.computation.name] += 1
        for each in self.run.control[self.computation.name]:
            if self.run.asks(each):
                self._result(each)
            else:
                for name in _runs(each):
                    self.run.add(name, _times(each))

    def root(self, path: Path = ()) -> Any:
        return self.value(self.computation.root, path)

    def value(self, name: str, path: Path = ()) -> Any:
        key = name, path
        if key not in self.values:
            self.values[key] = self._value(self.computation.instructions[name], path)
        return self.values[key]

    def _value(self, each: Instruction, path: Path) -> Any:
        array = at(each.type, path)
        if not isinstance(array, Array) or not is_followed(array):
            return UNKNOWN
        if each.opcode == "parameter":
            return self.argument(each.index, path)
        if each.opcode == "constant":
            return constant(each, array)
        if each.opcode == "get-tuple-element":
            return self.value(each.operands[0], (each.index, *path))
        if each.opcode == "tuple":
            return self.value(each.operands[path[0]], path[1:])
        if each.opcode.endswith("-done"):
            start = self.computation.instructions[each.operands[0]]
            if start.opcode in FUSIONS:
                return self._result(start)(path)
        if each.opcode in ("opt-barrier", "copy", "copy-done"):
            return self.value(each.operands[0], path)
        if each.opcode == "copy-start":
            return self.value(each.operands[0]) if path == (0,) else UNKNOWN
        if each.opcode in ("fusion", "call", "while", "conditional"):
            return self._result(each)(path)
        operands = [self.value(operand) for operand in each.operands]
        if path or any(operand is UNKNOWN for operand in operands):
            return UNKNOWN
        return evaluate(self.run.module, each, array, operands)

    def _result(self, each: Instruction) -> Callable[[Path], Any]:
        """What an instruction that runs a computation gives. It runs once.

        What asks nothing is run for its values alone, and `perform` counts it.
        """
        if each.name not in self.results:
            make = {"while": self._loop, "conditional": self._branch}.get(each.opcode, self._call)
            self.results[each.name] = make(each)
        return self.results[each.name]

    def _call(self, each: Instruction) -> Callable[[Path], Any]:
        name = each.callee
        if name is None or name not in self.run.module.computations:
            return lambda path: UNKNOWN
        frame = _Frame(
            self.run,
            self.run.computation(name),
            lambda index, path: self.value(each.operands[index], path),
            self.in_buffer or name.startswith("command_buffer"),
        )
        if each.opcode == "call" and self.run.asks(each):
            frame.perform()
        return frame.root

    def _branch(self, each: Instruction) -> Callable[[Path], Any]:
        chosen = self._asked(each, self.value(each.operands[0]))
        number = int(chosen)
        number = number if 0 <= number < len(each.branches) else len(each.branches) - 1
        operand = each.operands[1 + (1 - number if _names_true_first(each) else number)]
        frame = _Frame(
            self.run,
            self.run.computation(each.branches[number]),
            lambda index, path: self.value(operand, path),
            self.in_buffer,
        )
        frame.perform()
        return frame.root

    def _loop(self, each: Instruction) -> Callable[[Path], Any]:
        is_counted = self.run.asks(each)
        paths = [path for path, array in leaves(each.type) if is_followed(array)]
        carry = {path: self.value(each.operands[0], path) for path in paths}
        body, condition = map(self.run.computation, (each.body, each.condition))
        trips = 0
        while True:
            argument = lambda index, path, carry=carry: carry.get(path, UNKNOWN)
            if each.trips is None:
                ends = not self._asked(each, _Frame(self.run, condition, argument).root())
            else:
                ends = trips == each.trips
            if ends:
                return lambda path: carry.get(path, UNKNOWN)
            frame = _Frame(self.run, body, argument, self.in_buffer)
            if is_counted:
                frame.perform()
            carry = {path: frame.root(path) for path in paths}
            trips += 1

    def _asked(self, each: Instruction, answer: Any) -> Any:
        """The answer to a question, which is counted."""
        self.run.questions[each.name] += not self.in_buffer
        if answer is UNKNOWN:
            raise Undecided(f"%{each.name} depends on data")
        return answer


def _names_true_first(each: Instruction) -> bool:
    """Whether the operands of a conditional on a predicate are (predicate, of true, of false)."""
    return bool(each.called("true_computation"))
