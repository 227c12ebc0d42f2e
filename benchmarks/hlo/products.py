"""The products of a compiled program: who computes them, in which types.

A product is a `dot` or `convolution` that is left in the module (in a fusion, or alone), or a call
of cuBLAS, cuBLASLt or cuDNN. Each counts once, however often a loop runs it.
"""

from __future__ import annotations

import collections
import dataclasses
import re

from benchmarks.hlo.text import FUSIONS, Array, Computation, Instruction, Module, at, leaves

LIBRARIES = {
    "__cublas$lt": "cuBLASLt",
    "__cublas$": "cuBLAS",
    "__cudnn$": "cuDNN",
    "__triton": "Triton",
    "cusolver": "cuSOLVER",
    "__onednn$": "oneDNN",
}
"""Who is meant, by how the target of a custom call or the kind of a fusion begins."""

_SAME_VALUES = ("copy", "bitcast", "reshape", "transpose", "broadcast", "slice", "dynamic-slice")


@dataclasses.dataclass(frozen=True)
class Product:
    """A product.

    Attributes:
      by: "Triton", "cuBLASLt", ..., or "XLA" for a loop of its own.
      operands, result: dtypes.
      is_widened: both operands are wider than bf16 and come from bf16 values by a conversion, so
        that a product of bf16 numbers is not computed as one.
    """

    by: str
    operands: tuple[str, str]
    result: str
    is_widened: bool

    def __str__(self) -> str:
        return f"{' x '.join(self.operands)} -> {self.result}"


def products(module: Module) -> list[Product]:
    """All products of a module."""
    found = []
    for computation in module.computations.values():
        for each in computation.instructions.values():
            if each.opcode in ("dot", "convolution") or _is_library_product(each):
                found.append(_product(module, computation, each))
    return found


def libraries(module: Module) -> dict[str, int]:
    """How often each library is called: targets of custom calls, and fusions of Triton's.

    Fusions inside of fusions, which are how Triton's products are described, are not counted.
    """
    counts: collections.Counter[str] = collections.Counter()
    inside = {each.callee for c in module.computations.values() for each in c.all(*FUSIONS)}
    for computation in module.computations.values():
        if computation.name in inside:
            continue
        for each in computation.all("custom-call", *FUSIONS):
            if each.target:
                counts[each.target] += 1
            elif each.fusion_kind:
                has_product = _has_product(module, each)
                counts[f"{each.fusion_kind}{' with a product' if has_product else ''}"] += 1
    return dict(counts)


def library(name: str) -> str:
    """The library that a custom call's target or a fusion's kind belongs to, or the name itself."""
    return next((of for start, of in LIBRARIES.items() if name.startswith(start)), name)


def stablehlo_products(text: str) -> dict[str, int]:
    """How many products of each types a StableHLO module has: {"bf16 x bf16 -> f32": 3}."""
    pattern = (
        r"stablehlo\.(?:dot_general|dot|convolution)\b.*?: "
        r"\(tensor<([^>]*)>, tensor<([^>]*)>\) -> tensor<([^>]*)>"
    )
    counts: collections.Counter[str] = collections.Counter()
    for match in re.finditer(pattern, text, re.DOTALL):
        left, right, result = (kind.rpartition("x")[2] for kind in match.groups())
        counts[f"{left} x {right} -> {result}"] += 1
    return dict(counts)


def _is_library_product(each: Instruction) -> bool:
    return each.opcode == "custom-call" and any(
        mark in each.target for mark in ("__cublas$", "__cudnn$conv", "__cudnn$fmha")
    )


def _has_product(module: Module, fusion: Instruction) -> bool:
    called = module.computations.get(fusion.callee or "")
    return called is not None and any(
        each.opcode in ("dot", "convolution", "scaled-dot")
        or (each.opcode in FUSIONS and _has_product(module, each))
        for each in called.instructions.values()
    )


def _product(module: Module, computation: Computation, each: Instruction) -> Product:
    sources = each.operands[:2]
    dtypes = tuple(_dtype(computation.instructions[name].type) for name in sources)
    assert len(dtypes) == 2, f"{each.name} has two operands"
    came = [source_dtype(module, computation, name) for name in sources]
    widened = "bf16" not in dtypes and all(dtype == "bf16" for dtype in came)
    return Product(_by(module, computation, each), dtypes, _dtype(each.type), widened)


def _by(module: Module, computation: Computation, each: Instruction) -> str:
    if each.target:
        return library(each.target)
    while computation.name in module.callers:
        computation, caller = module.callers[computation.name]
        if caller.fusion_kind:
            return library(caller.fusion_kind)
    return "XLA"


def _dtype(kind) -> str:
    """The dtype of an array, or of the first one in a tuple."""
    return next(array.dtype for _, array in leaves(kind))


def source_dtype(module: Module, computation: Computation, name: str) -> str:
    """The dtype of the values of an operand before they were converted, if they were.

    Copies, transpositions and the like are looked through, and the borders of fusions.
    """
    path: tuple[int, ...] = ()
    while True:
        each = computation.instructions[name]
        if each.opcode == "convert":
            before = computation.instructions[each.operands[0]].type
            assert isinstance(before, Array)
            if before.dtype == "bf16":
                return "bf16"
            name = each.operands[0]
        elif each.opcode in _SAME_VALUES or each.opcode.endswith("-done"):
            name = each.operands[0]
        elif each.opcode == "get-tuple-element":
            path, name = (each.index, *path), each.operands[0]
        elif each.opcode == "tuple" and path:
            name, path = each.operands[path[0]], path[1:]
        elif each.opcode in FUSIONS and each.callee in module.computations:
            computation = module.computations[each.callee]
            name = computation.root
        elif each.opcode == "parameter" and computation.name in module.callers:
            computation, caller = module.callers[computation.name]
            name = caller.operands[each.index]
        else:
            kind = at(each.type, path)
            return kind.dtype if isinstance(kind, Array) else ""
