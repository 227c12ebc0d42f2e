"""Optimised HLO as data, read from its text.

    %body (arg: (s32[], f32[8])) -> (s32[], f32[8]) {
      %arg = (s32[], f32[8]{0}) parameter(0)
      %i = s32[] get-tuple-element(%arg), index=0
      ...
      ROOT %out = (s32[], f32[8]{0}) tuple(%next, %sum)
    }

It reads what the rest of this package asks for: names, types, opcodes, operands, and which
computations an instruction calls. Attributes stay text.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

FUSIONS = ("fusion", "fusion-start", "async-start", "call-start")
"""Opcodes of fusions, at once and asynchronous. The type of the latter is that of their operands,
of the result, and of what XLA needs; the result is that of the `-done` behind."""

ITEM_BITS = {"pred": 8, "token": 0, "opaque": 0}
"""Bits of an element where the dtype's name does not say; "bf16" has sixteen, "s32" 32."""

Type = "Array | tuple[Type, ...]"


@dataclasses.dataclass(frozen=True)
class Array:
    """The type of an array: "f32", (8, 4), and its layout as text, "{1,0}"."""

    dtype: str
    dims: tuple[int, ...]
    layout: str = ""

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        bits = ITEM_BITS.get(self.dtype)
        if bits is None:
            number = re.search(r"\d+", self.dtype)
            bits = int(number[0]) if number else 0
        return self.size * bits // 8

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


def leaves(kind) -> Iterator[tuple[tuple[int, ...], Array]]:
    """The arrays in a type, each with its path: the indices into tuples that lead to it."""
    if isinstance(kind, Array):
        yield (), kind
        return
    for i, part in enumerate(kind):
        for path, array in leaves(part):
            yield (i, *path), array


def at(kind, path: tuple[int, ...]):
    """The type at a path."""
    for i in path:
        kind = kind[i]
    return kind


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line.

    Attributes:
      name: without the %.
      type: an `Array`, or a tuple of types.
      opcode: "add", "fusion", ...
      operands: names.
      literal: what stands in the brackets, as text: a constant's value, a parameter's number.
      attributes: all behind the brackets, as text.
    """

    name: str
    type: object
    opcode: str
    operands: tuple[str, ...]
    literal: str
    attributes: str

    def called(self, *kinds: str) -> tuple[str, ...]:
        """Names of the computations that stand behind `kind=` in the attributes."""
        return tuple(
            name.strip().lstrip("%")
            for kind in kinds
            for match in re.finditer(rf"\b{kind}=(?:\{{([^}}]*)\}}|%?([\w.$-]+))", self.attributes)
            for name in (match[1] if match[1] is not None else match[2]).split(",")
        )

    @functools.cached_property
    def body(self) -> str:
        return self.called("body")[0]

    @functools.cached_property
    def condition(self) -> str:
        return self.called("condition")[0]

    @functools.cached_property
    def branches(self) -> tuple[str, ...]:
        """Of a conditional, in the order of its index; a predicate's are (false, true)."""
        return self.called("branch_computations") or self.called(
            "false_computation", "true_computation"
        )

    @functools.cached_property
    def callee(self) -> str | None:
        """The computation of a fusion or a call."""
        return next(iter(self.called("calls", "to_apply")), None)

    @functools.cached_property
    def trips(self) -> int | None:
        """The number of trips of a loop, where XLA knows it."""
        match = re.search(r'"known_trip_count":\{"n":"(\d+)"', self.attributes)
        return int(match[1]) if match else None

    @functools.cached_property
    def index(self) -> int:
        """Of a get-tuple-element or a parameter."""
        if self.opcode == "parameter":
            return int(self.literal)
        match = re.search(r"\bindex=(\d+)", self.attributes)
        assert match is not None, f"{self.name} has no index"
        return int(match[1])

    @functools.cached_property
    def target(self) -> str:
        """What a custom call calls; "" if this is none."""
        match = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return match[1] if match else ""

    @functools.cached_property
    def fusion_kind(self) -> str:
        """Who compiles a fusion: "__triton_gemm", "__cudnn$fusion", ... or "" for XLA itself."""
        match = re.search(r'"?fusion_backend_config"?:\{"?kind"?:"([^"]*)"', self.attributes)
        return match[1] if match else ""


@dataclasses.dataclass(frozen=True)
class Computation:
    """A computation: its instructions by name, in their order, and which of them is the result."""

    name: str
    instructions: dict[str, Instruction]
    root: str

    def all(self, *opcodes: str) -> list[Instruction]:
        """The instructions with these opcodes."""
        return [each for each in self.instructions.values() if each.opcode in opcodes]

    @functools.cached_property
    def result(self) -> Instruction:
        return self.instructions[self.root]


@dataclasses.dataclass(frozen=True)
class Module:
    """A module: its computations by name, and the name of the entry."""

    computations: dict[str, Computation]
    entry: str

    @functools.cached_property
    def callers(self) -> dict[str, tuple[Computation, Instruction]]:
        """For a computation of a fusion or call, one of the instructions that call it."""
        return {
            each.callee: (computation, each)
            for computation in self.computations.values()
            for each in computation.all(*FUSIONS, "call")
            if each.callee is not None
        }


_COMMENT = re.compile(r"/\*.*?\*/")
_HEADER = re.compile(r"^(ENTRY\s+)?%?([\w.$-]+)\s*(\(.*)?\{\s*$")
_LINE = re.compile(r"^\s+(ROOT\s+)?%?([\w.$-]+)\s*=\s*(.*)$")
_ARRAY = re.compile(r"^(\w+)\[([^\]]*)\](\{[^}]*\})?")
_OPCODE = re.compile(r"^\s*([\w-]+)\(")


def parse(text: str) -> Module:
    """A module from its text.

    Raises:
      ValueError: there is no entry, or a line cannot be read.
    """
    computations: dict[str, Computation] = {}
    entry = None
    name, instructions, root = "", {}, ""
    for line in text.splitlines():
        line = _COMMENT.sub("", line)
        if line.startswith("}"):
            computations[name] = Computation(name, instructions, root)
        elif line.startswith("HloModule") or not line.strip():
            continue
        elif not line[0].isspace():
            header = _HEADER.match(line)
            if header:
                name, instructions, root = header[2], {}, ""
                entry = name if header[1] else entry
        elif match := _LINE.match(line):
            instruction = _instruction(match[2], match[3])
            instructions[instruction.name] = instruction
            root = instruction.name if match[1] else root
    if entry is None:
        raise ValueError("the text has no ENTRY computation")
    return Module(computations, entry)


def _instruction(name: str, text: str) -> Instruction:
    kind, rest = _type(text)
    match = _OPCODE.match(rest)
    if match is None:
        raise ValueError(f"%{name} = {text[:80]}: no opcode where one should be")
    inside, attributes = _bracketed(rest[match.end() - 1 :])
    opcode = match[1]
    operands = () if opcode in ("constant", "parameter", "iota") else _names(inside)
    return Instruction(name, kind, opcode, operands, inside, attributes)


def _type(text: str):
    """(the type at the start of the text, the text behind it)."""
    text = text.lstrip()
    if not text.startswith("("):
        match = _ARRAY.match(text)
        if match is None:
            raise ValueError(f"{text[:80]}: no type where one should be")
        dims = tuple(int(dim.lstrip("<=")) for dim in match[2].split(",") if dim)
        return Array(match[1], dims, match[3] or ""), text[match.end() :]
    parts, rest = [], text[1:].lstrip()
    while not rest.startswith(")"):
        part, rest = _type(rest)
        parts.append(part)
        rest = rest.lstrip().removeprefix(",").lstrip()
    return tuple(parts), rest[1:]


def _bracketed(text: str) -> tuple[str, str]:
    """(what stands in the brackets that the text begins with, what stands behind them)."""
    depth, quoted = 0, False
    for i, character in enumerate(text):
        if character == '"':
            quoted = not quoted
        elif not quoted and character in "([{":
            depth += 1
        elif not quoted and character in ")]}":
            depth -= 1
            if depth == 0:
                return text[1:i], text[i + 1 :]
    raise ValueError(f"{text[:80]}: a bracket is not closed")


def _names(text: str) -> tuple[str, ...]:
    """Names of operands, which may stand behind their types."""
    depth, start, parts = 0, 0, []
    for i, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    parts.append(text[start:])
    return tuple(part.split()[-1].lstrip("%") for part in parts if part.strip())
