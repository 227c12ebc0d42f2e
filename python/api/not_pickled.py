"""Why a program that was lowered or compiled is not pickled, and what to do."""

from __future__ import annotations


def not_pickled(what: str) -> TypeError:
    return TypeError(
        f"a {what} metagradient cannot be pickled: it is code for this process. To store the "
        "program, export it: compiled.export(path) writes a file that metagrad.load(path) runs, "
        "also where there is no Enzyme."
    )
