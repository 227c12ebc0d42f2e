"""Copies of large arrays, and in which loops they are.

Counted are `copy`, `copy-start`, and fusions that do nothing else. Reads and writes of slots
(`dynamic-slice`, `dynamic-update-slice`) are work that a schedule asks for, and not counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from benchmarks.hlo.text import FUSIONS, Array, Computation, Instruction, Module, leaves

_NOT_WORK = ("parameter", "copy", "bitcast", "tuple", "get-tuple-element", "reshape")


@dataclasses.dataclass(frozen=True)
class Copy:
    """A copy of one array.

    Attributes:
      computation: where it is.
      depth: in how many loops.
      array: what is copied.
      is_state: the array has shape and dtype of a leaf of the state, or of all slots of one, and
        keeps its layout.
    """

    computation: str
    depth: int
    array: Array
    is_state: bool


def loop_depths(module: Module) -> dict[str, int]:
    """For each computation that is run as such (no fusion's), in how many loops it is."""
    depths: dict[str, int] = {}

    def visit(name: str, depth: int) -> None:
        if depths.get(name, -1) >= depth:
            return
        depths[name] = depth
        for each in module.computations[name].instructions.values():
            if each.opcode == "while":
                visit(each.body, depth + 1)
                visit(each.condition, depth + 1)
            elif each.opcode == "call" and each.callee:
                visit(each.callee, depth)
            elif each.opcode == "conditional":
                for branch in each.branches:
                    visit(branch, depth)

    visit(module.entry, 0)
    return depths


def copies(
    module: Module, least_bytes: int, state: Collection[tuple[str, tuple[int, ...]]]
) -> list[Copy]:
    """The copies of arrays of at least so many bytes.

    Args:
      state: (dtype, shape) of each leaf of the state, "f32" and so on. Slots of a leaf have one
        axis more in front.
    """
    found = []
    for name, depth in loop_depths(module).items():
        computation = module.computations[name]
        for each in computation.instructions.values():
            for array, keeps_layout in _copied(module, computation, each):
                if array.bytes >= least_bytes:
                    kinds = ((array.dtype, array.dims), (array.dtype, array.dims[1:]))
                    is_state = keeps_layout and any(kind in state for kind in kinds)
                    found.append(Copy(name, depth, array, is_state))
    return found


def _copied(
    module: Module, computation: Computation, each: Instruction
) -> list[tuple[Array, bool]]:
    """(array, whether it keeps its layout) of each array that an instruction copies."""
    if each.opcode in ("copy", "copy-start"):
        array = next(array for _, array in leaves(each.type))
        before = next(a for _, a in leaves(computation.instructions[each.operands[0]].type))
        return [(array, array.layout == before.layout)]
    if each.opcode not in FUSIONS or each.callee not in module.computations:
        return []
    called = module.computations[each.callee]
    if any(inner.opcode not in _NOT_WORK for inner in called.instructions.values()):
        return []
    return [found for inner in called.all("copy") for found in _copied(module, called, inner)]
