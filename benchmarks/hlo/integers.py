"""Evaluates what is integer arithmetic in a compiled program, and nothing else.

A schedule is tables of integers, and loops whose bounds are read from them. What such a program
does can be followed without its floats: a value that depends on a float, on an argument of the
program, or on an operation that is not here is `UNKNOWN`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.hlo.text import Array, Instruction, Module

UNKNOWN = None

MOST_ELEMENTS = 2**16
"""Arrays with more are batches of data, not tables of a schedule."""

DTYPES = {"pred": np.dtype(bool)} | {
    f"{name[0]}{bits}": np.dtype(f"{kind}{bits}")
    for name, kind in (("signed", "int"), ("unsigned", "uint"))
    for bits in (8, 16, 32, 64)
}

_COMPARISONS = {
    "EQ": np.equal,
    "NE": np.not_equal,
    "LT": np.less,
    "LE": np.less_equal,
    "GT": np.greater,
    "GE": np.greater_equal,
}


def _divide(a, b):
    """Rounds towards zero, as XLA does."""
    quotient = np.abs(a) // np.maximum(np.abs(b), 1)
    return np.where((a < 0) != (b < 0), -quotient, quotient).astype(a.dtype)


_ELEMENTWISE: dict[str, Callable] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": _divide,
    "remainder": np.fmod,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "negate": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "select": np.where,
    "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
    "shift-left": np.left_shift,
    "shift-right-arithmetic": np.right_shift,
    "shift-right-logical": np.right_shift,
}
_REDUCTIONS = {
    "add": np.sum,
    "maximum": np.max,
    "minimum": np.min,
    "and": np.all,
    "or": np.any,
    "multiply": np.prod,
}


def is_followed(array: Array) -> bool:
    """Whether values of this type are evaluated at all."""
    return array.dtype in DTYPES and array.size <= MOST_ELEMENTS


def constant(each: Instruction, array: Array):
    """The value of a constant; UNKNOWN if the text leaves it out."""
    if "..." in each.literal:
        return UNKNOWN
    words = re.findall(r"-?\d+|true|false", each.literal)
    numbers = [int(word) if word.lstrip("-").isdecimal() else word == "true" for word in words]
    if len(numbers) != array.size:
        return UNKNOWN
    return np.array(numbers).astype(DTYPES[array.dtype]).reshape(array.dims)


def evaluate(module: Module, each: Instruction, array: Array, operands: Sequence):
    """The value of an instruction from those of its operands, none of which is UNKNOWN.

    Args:
      module: where computations of reductions are.
      array: the type of the result.
    """
    with np.errstate(all="ignore"):
        value = _value(module, each, array, operands)
    return UNKNOWN if value is UNKNOWN else np.asarray(value, DTYPES[array.dtype])


def _value(module: Module, each: Instruction, array: Array, operands: Sequence):
    opcode = each.opcode
    if opcode in _ELEMENTWISE:
        return _ELEMENTWISE[opcode](*operands)
    if opcode == "compare":
        direction = re.search(r"\bdirection=(\w+)", each.attributes)
        return _COMPARISONS[direction[1]](*operands) if direction else UNKNOWN
    if opcode in ("convert", "copy"):
        return operands[0]
    if opcode in ("reshape", "bitcast"):
        same = operands[0].dtype == DTYPES[array.dtype]
        return operands[0].reshape(array.dims) if same else UNKNOWN
    if opcode == "broadcast":
        return _broadcast(operands[0], _numbers(each, "dimensions"), array.dims)
    if opcode == "iota":
        return _broadcast(
            np.arange(array.dims[(_numbers(each, "iota_dimension") or [0])[0]]),
            _numbers(each, "iota_dimension"),
            array.dims,
        )
    if opcode == "slice":
        bounds = re.search(r"\bslice=\{([^}]*)\}", each.attributes)
        return operands[0][_slices(bounds[1])] if bounds else UNKNOWN
    if opcode == "dynamic-slice":
        return operands[0][_window(operands[0], operands[1:], array.dims)]
    if opcode == "dynamic-update-slice":
        after = operands[0].copy()
        after[_window(after, operands[2:], operands[1].shape)] = operands[1]
        return after
    if opcode == "concatenate":
        return np.concatenate(operands, _numbers(each, "dimensions")[0])
    if opcode == "reduce" and len(operands) == 2:
        combine = module.computations[each.callee or ""].result.opcode
        if combine in _REDUCTIONS:
            reduced = _REDUCTIONS[combine](operands[0], axis=tuple(_numbers(each, "dimensions")))
            return _ELEMENTWISE[combine](reduced, operands[1])
    return UNKNOWN


def _numbers(each: Instruction, name: str) -> list[int]:
    match = re.search(rf"\b{name}=\{{?([\d,]*)\}}?", each.attributes)
    return [int(number) for number in match[1].split(",") if number] if match else []


def _broadcast(value, dims: list[int], shape: tuple[int, ...]):
    expanded = [1] * len(shape)
    for axis, dim in enumerate(dims):
        expanded[dim] = value.shape[axis]
    return np.broadcast_to(value.reshape(expanded), shape)


def _slices(text: str) -> tuple[slice, ...]:
    """[0:4], [2:9:3] as slices."""
    return tuple(slice(*map(int, part.split(":"))) for part in re.findall(r"\[([\d:]+)\]", text))


def _window(of, starts: Sequence, sizes: Sequence[int]) -> tuple[slice, ...]:
    """Where a slice lies that starts at `starts`, moved into the array as XLA does."""
    firsts = [
        max(0, min(int(start), whole - size)) for start, whole, size in zip(starts, of.shape, sizes)
    ]
    return tuple(slice(first, first + size) for first, size in zip(firsts, sizes))
