"""Where the user wrote an equation."""

from __future__ import annotations

import os

from jax.extend import core

from metagrad.frontend.jaxprs.interpret import equations
from metagrad.runtime import jax_internals


def users_line(eqn: core.JaxprEqn) -> str:
    """ "FILE:LINE (FUNCTION)": the innermost frame outside of installed packages.

    A layer of flax or Equinox is traced in the library's lines, and what the user knows is where it
    is called. Where all frames are a library's it is the innermost of those; "" if there are none.
    """
    frames = jax_internals.user_frames(eqn)
    if not frames:
        return ""
    frame = next((f for f in frames if not is_in_packages(f.file_name)), frames[0])
    return f"{frame.file_name}:{frame.start_line} ({frame.function_name})"


def lines_of_custom_vjps(jaxpr: core.Jaxpr) -> list[str]:
    """The lines of the custom_vjp functions that a tangent goes through. Their rules are for
    reverse mode alone, and what JAX leaves of them it refuses later, without a line.
    """
    left = (eqn for eqn in equations(jaxpr) if eqn.primitive.name == "custom_lin")
    return list(dict.fromkeys(users_line(eqn) or "JAX knows no line" for eqn in left))


def is_in_packages(file: str) -> bool:
    return not {"site-packages", "dist-packages"}.isdisjoint(file.split(os.sep))
