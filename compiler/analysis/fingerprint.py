"""A text that is the same for two modules which do the same by the same operations.

What may differ is what an array of a weak type (a Python number) changes where it changes nothing:
conversions of a value to the type that it has, and functions that differ in these alone and so have
other names.
"""

from __future__ import annotations

import functools
import hashlib
import re

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func

from metagrad.compiler.dialect.matching import operations, replace

_SYMBOL = re.compile(r'@("(?:[^"\\]|\\.)*"|[\w$.-]+)')


def fingerprint(module: ir.Module, roots: tuple[str, ...]) -> str:
    """The functions `roots`, with digests of the functions that they refer to for their names.

    Changes the module: conversions that change nothing are gone.

    Args:
      module: its functions may refer to each other, but not in a circle.
      roots: names of functions; those that the module does not have are left out.
    """
    with module.context, ir.Location.unknown():
        for op in operations(module, "convert"):
            if op.operands[0].type == op.results[0].type:
                replace(op, op.operands[0])
    texts = {
        str(function.name.value): str(function.operation.get_asm(enable_debug_info=False))
        for function in module.body.operations
        if isinstance(function, func.FuncOp)
    }

    def named_by_content(text: str, own_name: str) -> str:
        def name(match: re.Match) -> str:
            symbol = match[1].strip('"')
            if symbol == own_name:
                return "@"
            return f"@{digest(symbol)}" if symbol in texts else match[0]

        return _SYMBOL.sub(name, text)

    @functools.cache
    def digest(function: str) -> str:
        content = named_by_content(texts[function], function)
        return hashlib.sha256(content.encode()).hexdigest()

    attributes = module.operation.attributes
    lines = [f"{name} = {attributes[name]}" for name in sorted(attributes)]
    return "\n".join(
        [*lines, *(named_by_content(texts[root], root) for root in roots if root in texts)]
    )
