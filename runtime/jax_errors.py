"""What JAX's errors say, by their texts: which kind one is, and its message in the user's words.

A new JAX may say it in other words. Tests meet each of these errors.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Sequence

from jax.extend.core import Primitive
from jax.extend.core.primitives import while_p

from metagrad.runtime import jax_internals

_WITHOUT_REVERSE = {while_p.name: "while_loop", jax_internals.pure_callback_p.name: "callback"}


def refuses_reverse(error: Exception, primitive: str) -> bool:
    """Whether an error says that JAX cannot differentiate the primitive of this name in reverse."""
    return primitive in _WITHOUT_REVERSE and _WITHOUT_REVERSE[primitive] in str(error)


_KERNELS = {"dot_product_attention_": "cuDNN's fused attention", "pallas_call": "a Pallas kernel"}


def fused_kernel(primitive: Primitive) -> str | None:
    """What kind of kernel a primitive calls, if it is one that somebody wrote as a whole.

    By the beginning of the name: of cuDNN's attention there are forward and backward, in two
    precisions, each with a wrapper. They are private, as is the module of `pallas_call`.
    """
    return next((kind for name, kind in _KERNELS.items() if primitive.name.startswith(name)), None)


def refuses_kernel(error: Exception, kind: str) -> bool:
    """Whether an error says that JAX has no derivative of a kernel of this kind.

    Some of Pallas's are without a text, or speak of the linearisation in general: then the error
    comes from Pallas, or there is no other kernel that it can be about.
    """
    text = str(error)
    if any(name in text for name, of in _KERNELS.items() if of == kind):
        return True
    if kind != _KERNELS["pallas_call"]:
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return "Linearization failed" in text or any(
        f"{os.sep}pallas{os.sep}" in frame.filename for frame in frames
    )


def speaks_of_another_mesh(error: Exception) -> bool:
    """Whether types have shardings of another mesh than that of the context."""
    return "should match the aval mesh" in str(error)


def speaks_of_an_unbound_axis(error: NameError) -> bool:
    """Whether a NameError is of a collective over an axis that nobody binds."""
    return "axis name" in str(error)


def speaks_of_a_traced_constant(error: TypeError) -> bool:
    """Whether a value of another trace was met where a constant should be."""
    return "No constant handler" in str(error) and "Tracer" in str(error)


def with_names_of_inputs(error: Exception, names: Sequence[str]) -> str:
    """The message of an error about inputs of a jitted `f(*inputs)`, which JAX counts, by name."""
    name = lambda match: names[int(match[1])]
    return re.sub(r"inputs\[(\d+)\](?: of \S+)?", name, str(error))
