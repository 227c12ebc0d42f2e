"""Notes on errors from inside the user's functions: what metagrad called them with.

A batch that was not stacked, or a state in the place of meta, shows there as an error about shapes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from metagrad.frontend.pytrees import Tree, shaped

_LEAVES = 6


@contextlib.contextmanager
def noting(note: Callable[[], str]) -> Iterator[None]:
    """Adds a note to an error (`BaseException.add_note`), which stays what it is otherwise."""
    try:
        yield
    except Exception as error:
        error.add_note(note())
        raise


def of_step(state: Tree, meta: Tree, batch: Tree, steps: int, hint: str = "") -> str:
    """The note on an error from inside a step.

    Args:
      state, meta, batch: the step's arguments.
      steps: T.
      hint: a sentence about `batches`, or nothing.
    """
    lines = [
        "metagrad called the step as step(state, meta, batch), the arguments of "
        "mg(state0, meta, batches) in that order, with",
        *map(_line, (state, meta, batch)),
        f"The leading axis of batches, of length {steps}, counts the steps: batch is one entry of "
        "it.",
    ]
    return "\n".join([*lines, hint] if hint else lines)


def of_outer(state: Tree, arguments: Tree) -> str:
    """The note on an error from inside an outer function."""
    lines = [
        "metagrad called the outer function as outer(state, *outer_args), the final state and the "
        "arguments of mg(state0, meta, batches, *outer_args) after batches, with",
        *map(_line, (state, arguments)),
    ]
    return "\n".join(lines)


def _line(tree: Tree) -> str:
    return f"  {tree.name}: {_arrays(tree)}"


def _arrays(tree: Tree) -> str:
    if not tree.leaves:
        return "no arrays"
    listed: Sequence[str] = [
        f"{leaf.path} {shaped(leaf.aval)}" if leaf.path != tree.name else shaped(leaf.aval)
        for leaf in tree.leaves[:_LEAVES]
    ]
    more = len(tree.leaves) - _LEAVES
    return ", ".join(listed) + (f" and {more} more arrays" if more > 0 else "")
