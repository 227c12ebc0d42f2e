"""With which versions of JAX the table was measured.

A table that is right for one JAX may be wrong for the next, in which a function may have another
rule or an operation another name. `python -m tests.capabilities`, run with a new JAX, measures
every case again; its version is then added here.
"""

from __future__ import annotations

import jax

JAX = ("0.10.2", "0.12.0.1")
"""The versions, oldest first."""


def unmeasured(version: str = jax.__version__) -> str | None:
    """One line that says so if the table was not measured with this JAX; else None."""
    if version in JAX:
        return None
    return (
        f"the table of proven operations was measured with jax {' and '.join(JAX)}, this is jax "
        f"{version}; metagrad.compile(ad='jax') does without the table"
    )
