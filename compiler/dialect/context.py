"""The MLIR context that the passes run in: JAX's dialects, and room for ops of dialects that only
the Enzyme worker knows.
"""

from __future__ import annotations

from jaxlib.mlir import ir


def context() -> ir.Context:
    """A fresh context with StableHLO, CHLO and func loaded.

    `enzyme.*` and `metagrad.*` ops are read and built unregistered.
    """
    # Here, so that a command which only prints its help does not wait for JAX.
    from metagrad.runtime.jax_internals import ir_context

    ctx = ir_context()
    ctx.allow_unregistered_dialects = True
    return ctx


def parse(text: str | bytes) -> ir.Module:
    """Parses a module, as text or as bytecode, into a context of its own.

    Raises:
      ValueError: the text is not MLIR; the message is the parser's, with line and column.
    """
    with context(), ir.Location.unknown():
        try:
            return ir.Module.parse(text)
        except ir.MLIRError as error:
            raise ValueError(
                f"this is not an MLIR module that metagrad can read: {error}"
            ) from None


def text(module: ir.Module) -> str:
    """The module as text that `parse` and the Enzyme worker read again."""
    return str(module.operation.get_asm(enable_debug_info=False))
