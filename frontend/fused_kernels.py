"""Kernels whose derivative JAX does not have, at the order that a metagradient needs.

    cuDNN's fused attention   a gradient, and no derivative of the gradient
    a Pallas kernel           no reverse mode; what its author's `custom_vjp` gives is a gradient,
                              and no derivative of it where that is a kernel again

An inner gradient is differentiated once more, and so is a gradient that the step takes by
`jax.grad`. An outer function is differentiated once: there, cuDNN's attention passes.

JAX says "Differentiation rule for 'dot_product_attention_bwd_wrapper' not implemented", of a
primitive that no user wrote, or "Linearization failed". Here it is put in the user's terms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from jax.extend import core, source_info_util

from metagrad.frontend.jaxprs.calls import inside
from metagrad.runtime import jax_errors


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One kind of kernel, and the lines of the user's that call one.

    Attributes:
      name: what the user knows it by.
      lines: file and line of each call.
      instead: what to use in its place.
    """

    name: str
    lines: tuple[str, ...]
    instead: str


_ATTENTION = (
    "metagrad.dot_product_attention, which has the derivatives of every order in memory that is "
    "linear in the context, or jax.nn.dot_product_attention with implementation='xla'"
)

_INSTEAD = {
    "cuDNN's fused attention": f"Use {_ATTENTION}.",
    "a Pallas kernel": (
        "Say it in jax.numpy, or give it a jax.custom_jvp whose rule JAX can differentiate again. "
        f"In place of a kernel for attention, use {_ATTENTION}."
    ),
}


def kernels_in(jaxpr: core.ClosedJaxpr, error: Exception) -> list[Kernel]:
    """The kernels in a function that JAX refused to differentiate because of them."""
    lines: dict[str, dict[str, None]] = {}
    for eqn, line in _with_lines(jaxpr.jaxpr, ""):
        name = jax_errors.fused_kernel(eqn.primitive)
        if name is not None and jax_errors.refuses_kernel(error, name):
            lines.setdefault(name, {})[line] = None
    return [
        Kernel(name, tuple(filter(None, places)), _INSTEAD[name]) for name, places in lines.items()
    ]


def _with_lines(jaxpr: core.Jaxpr, around: str) -> Iterator[tuple[core.JaxprEqn, str]]:
    """All equations, with the user's line: of what is around one that has none, as is the case in
    a function with a custom rule.
    """
    for eqn in jaxpr.eqns:
        line = source_info_util.summarize(eqn.source_info) or around
        yield eqn, line
        for inner in inside(eqn):
            yield from _with_lines(inner, line)


def refusal(label: str, kernels: Sequence[Kernel]) -> str:
    """The message: the function, the kernels, their lines, and what to do."""
    listed = "\n".join(
        f"  {kernel.name}" + "".join(f"\n    {line}" for line in kernel.lines) for kernel in kernels
    )
    return (
        f"JAX cannot differentiate {label} as often as the metagradient needs it: an inner "
        "gradient is differentiated once more. The function calls a kernel that has no such "
        f"derivative:\n{listed}\n" + "\n".join(kernel.instead for kernel in kernels)
    )
