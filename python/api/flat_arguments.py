"""The arguments of one call, flattened once: what is compared, and the leaves that are handed on.

With hundreds of leaves the host's work is what a call costs, so each leaf is looked at once, in
`flatten`. Paths are made only for an error message.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import jax

from metagrad.frontend.jaxprs.auto_axes import explicit_sharding
from metagrad.frontend.pytrees import is_array_leaf
from metagrad.runtime.streams import Stream
from metagrad.runtime.streams.batch_shards import with_leading_axes


@dataclasses.dataclass(frozen=True, eq=False)
class CallSignature:
    """What two calls of one program have in common.

    Attributes:
      structure: of the tuple (state0, meta, batches, outer_args).
      avals: shape, dtype and whether the type is weak, of each leaf that is an array, and the
        sharding if that is in its type; None for one that is not an array.
      constants: the leaves that are not arrays, in order. They are part of the program.
    """

    structure: Any
    avals: tuple[tuple | None, ...]
    constants: tuple[Any, ...]

    def is_same(self, other: CallSignature) -> bool:
        """Whether the calls are of one program for certain: constants are compared by identity."""
        return (
            self.structure == other.structure
            and self.avals == other.avals
            and all(map(operator.is_, self.constants, other.constants))
        )

    def differs_in_weak_types(self, other: CallSignature) -> bool:
        """Whether the calls are alike but for weak types, and for dtypes where a type is weak.

        One program may then serve both. Constants are compared by value.
        """
        return (
            self.structure == other.structure
            and self.constants == other.constants
            and all(map(_are_alike, self.avals, other.avals))
        )

    @property
    def key(self) -> tuple:
        """For a dict of programs. Not hashable if a constant or a static part of a tree is not."""
        return self.structure, self.avals, self.constants


def _are_alike(one: tuple | None, other: tuple | None) -> bool:
    if one is None or other is None:
        return one is other
    (shape, dtype, is_weak, *typed), (other_shape, other_dtype, other_is_weak, *other_typed) = (
        one,
        other,
    )
    is_same = shape == other_shape and typed == other_typed
    return is_same and (dtype == other_dtype or is_weak or other_is_weak)


@dataclasses.dataclass(frozen=True, eq=False)
class FlatArguments:
    """The arguments of one call.

    Attributes:
      trees: (state0, meta, batches, outer_args), as the user gave them. With a stream, batches is
        an empty tuple.
      leaves: all leaves of the trees, in order.
      not_jax: positions of the leaves that are arrays to JAX but not JAX's own: NumPy arrays,
        Python numbers, objects with `__jax_array__`.
      signature: what is compared. Of a stream it is what a batch looks like.
      stream: the batches, if they are streamed.
    """

    trees: tuple[Any, Any, Any, tuple]
    leaves: list
    not_jax: list[int]
    signature: CallSignature
    stream: Stream | None = None

    @property
    def to_trace(self) -> tuple[Any, Any, Any, tuple]:
        """(state0, meta, batches, outer_args), where those of a stream are stacked shapes."""
        if self.stream is None:
            return self.trees
        steps = len(self.stream)

        def stacked(aval: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            sharding = aval.sharding
            if sharding is not None:
                sharding = with_leading_axes(sharding, 1)
            return jax.ShapeDtypeStruct((steps, *aval.shape), aval.dtype, sharding=sharding)

        state0, meta, _, outer_args = self.trees
        return state0, meta, jax.tree.map(stacked, self.stream.aval), outer_args


def flatten_streamed(state0: Any, meta: Any, stream: Stream, outer_args: tuple) -> FlatArguments:
    """Looks at each leaf of (state0, meta, outer_args) once, and at what a batch looks like."""
    flat = flatten((state0, meta, (), outer_args))
    shapes = jax.tree.structure(stream.aval), tuple(jax.tree.leaves(stream.aval))
    # Two calls are alike if this is the very same object (`CallSignature.is_same`).
    shapes = _BATCHES.setdefault(shapes, shapes)
    signature = dataclasses.replace(flat.signature, constants=(*flat.signature.constants, shapes))
    return dataclasses.replace(flat, signature=signature, stream=stream)


_BATCHES: dict[tuple, tuple] = {}


def flatten(trees: tuple[Any, Any, Any, tuple]) -> FlatArguments:
    """Looks at each leaf of (state0, meta, batches, outer_args) once."""
    leaves, structure = jax.tree.flatten(trees)
    avals: list[tuple | None] = []
    not_jax: list[int] = []
    constants: list[Any] = []
    for position, leaf in enumerate(leaves):
        if isinstance(leaf, jax.Array):
            aval = leaf.aval  # several times faster than jax.typeof
        elif is_array_leaf(leaf):
            aval = jax.typeof(leaf)
            not_jax.append(position)
        else:
            avals.append(None)
            constants.append(leaf)
            continue
        described = aval.shape, aval.dtype, aval.weak_type
        # What a function may ask of a type, it may do one thing or another for.
        is_typed = not aval.sharding.mesh.empty and explicit_sharding(aval) is not None
        avals.append((*described, aval.sharding) if is_typed else described)
    return FlatArguments(
        trees, leaves, not_jax, CallSignature(structure, tuple(avals), tuple(constants))
    )
