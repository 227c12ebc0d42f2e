"""A metagradient in its stages: lowered, compiled. The names follow `jax.stages`."""

from __future__ import annotations

import warnings
from typing import Any, Generic, overload

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.api.flat_arguments import CallSignature, FlatArguments, flatten
from metagrad.api.progress import shown
from metagrad.api.results import Aux, NoAux, Result, ResultWithAux
from metagrad.api.signature import Signature
from metagrad.api.type_variables import AuxT, GradT, KindT, StateT, ValueT
from metagrad.api.user_frame import users_level
from metagrad.compiler import pipeline
from metagrad.diagnostics import non_finite_warning
from metagrad.frontend.partition import Decision
from metagrad.frontend.pytrees import Leaf, describe, shaped, to_stored
from metagrad.runtime import jax_internals
from metagrad.runtime.schedules.plan import Plan
from metagrad.runtime.stage_reports import stage


class Lowered(Generic[StateT, ValueT, GradT, KindT]):
    """A metagradient lowered for given shapes. Made by `Metagradient.lower`."""

    def __init__(
        self,
        signature: Signature,
        plan: Plan,
        decisions: list[Decision],
        snapshots: pipeline.Snapshots,
        program,
        diagnose,
        check_nans: bool | None,
        progress: bool | None,
    ):
        self._progress = progress
        self._signature, self._plan, self._decisions = signature, plan, decisions
        self._snapshots, self._program, self._diagnose, self._check_nans = (
            snapshots,
            program,
            diagnose,
            check_nans,
        )
        self._compiled: Compiled[StateT, ValueT, GradT, KindT] | None = None

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages, in order; each can be given to `ir`."""
        return (*pipeline.STAGES, "hlo")

    def ir(self, stage: str) -> str:
        """The program after a stage, as text: MLIR, and for "hlo" what XLA made of it (which compiles, if that has not been done).

        Raises:
          ValueError: there is no such stage.
        """
        if stage not in self.stages:
            raise ValueError(f"no stage {stage!r}; there are {', '.join(map(repr, self.stages))}")
        return self.compile().as_text() if stage == "hlo" else self._snapshots.text(stage)

    @property
    def plan(self) -> Plan:
        """The schedule: steps run, slots held. `str()` draws it."""
        return self._plan

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Who differentiates each function: one entry for each inner gradient, the optimiser's update and the outer function."""
        return tuple(self._decisions)

    def explain(self) -> str:
        """Which function is differentiated by whom and why, as text."""
        return "\n".join(map(str, self._decisions))

    def compile(self) -> Compiled[StateT, ValueT, GradT, KindT]:
        """Compiles with XLA, once."""
        if self._compiled is None:
            with shown(self._progress):
                stage("lowering the program for XLA")
                lowered = jax.jit(self._checked).lower(*self._signature.inputs)
                stage("compiling with XLA")
                compiled = lowered.compile()
            self._compiled = Compiled(
                self._signature,
                self._program,
                compiled,
                self._plan,
                self._diagnose,
                self._check_nans,
            )
        return self._compiled

    def _checked(self, *inputs):
        """The program's results, and whether they have no NaN."""
        results = self._program.call(*inputs)
        if self._diagnose is None:
            return results, True
        value, first = results[:1], 1 + len(self._signature.outer_aux.leaves)
        last = first + len(self._signature.gradient_leaves())
        return results, non_finite_warning.is_fine(
            [*value, *results[first:last]], results[last : last + len(self._signature.state.leaves)]
        )


class Compiled(Generic[StateT, ValueT, GradT, KindT]):
    """A compiled metagradient: call it with arguments of the shapes that it was lowered for."""

    def __init__(
        self, signature: Signature, program, compiled, plan: Plan, diagnose, check_nans: bool | None
    ):
        self._signature, self._program, self.xla = signature, program, compiled
        self._diagnose, self._check_nans = diagnose, check_nans
        self.plan = plan
        trees = (signature.state, signature.meta, signature.batches, signature.outer)
        is_array = [flag for tree in trees for flag in tree.is_array]
        positions = [position for position, flag in enumerate(is_array) if flag]
        # Where each array leaf stands among all leaves of the arguments.
        self._leaf_at: dict[int, Leaf] = dict(zip(positions, signature.leaves))
        # The last call that was checked, and which of its leaves need converting.
        self._accepted: tuple[CallSignature | None, list[int]] = None, []

    @overload
    def __call__(
        self: Compiled[StateT, ValueT, GradT, NoAux],
        state0: StateT,
        meta: Any,
        batches: Any,
        *outer_args: Any,
    ) -> Result[ValueT, GradT, StateT]: ...
    @overload
    def __call__(
        self: Compiled[StateT, ValueT, GradT, Aux[AuxT]],
        state0: StateT,
        meta: Any,
        batches: Any,
        *outer_args: Any,
    ) -> ResultWithAux[ValueT, GradT, StateT, AuxT]: ...
    def __call__(self, state0: Any, meta: Any, batches: Any, *outer_args: Any) -> Any:
        trees = (state0, meta, batches, outer_args)
        try:
            arguments = flatten(trees)
        except (TypeError, ValueError, OverflowError):
            # A leaf that JAX does not take; what this program was compiled for is the better message.
            self._check(trees)
            raise
        return self.call_flat(arguments)

    def call_flat(self, arguments: FlatArguments):
        """What a call does, for arguments that have been flattened."""
        signature, to_convert = self._accepted
        if signature is None or not arguments.signature.is_same(signature):
            self._check(arguments.trees)
            to_convert = self._to_convert(arguments.signature)
            self._accepted = arguments.signature, to_convert
        arrays = self._stored(arguments, to_convert)
        if any(isinstance(array, jax.core.Tracer) for array in arrays):
            return self._signature.unflatten(self._call_traced(arrays))
        flat, fine = self.xla(*arrays)
        result = self._signature.unflatten(flat)
        if (
            self._diagnose is not None
            and not fine
            and (warning := self._diagnose(result, arguments.trees))
        ):
            # Once for each program: the search costs a training run, and descent on a metagradient calls it again and again.
            self._diagnose = None
            warnings.warn(warning, RuntimeWarning, stacklevel=users_level())
        return result

    def _to_convert(self, signature: CallSignature) -> list[int]:
        """Positions of the JAX arrays that are not as the program takes them: typed keys, and those of another or of a weak type."""
        return [
            position
            for position, leaf in self._leaf_at.items()
            if signature.avals[position] != (leaf.stored.shape, leaf.stored.dtype, False)
        ]

    def _stored(self, arguments: FlatArguments, to_convert: list[int]) -> list:
        """The array leaves as the program takes them."""
        leaves = list(arguments.leaves)
        for position in {*to_convert, *arguments.not_jax}:
            leaves[position] = to_stored(self._leaf_at[position], leaves[position])
        return [leaves[position] for position in self._leaf_at]

    def _call_traced(self, arrays: list) -> list:
        if self._check_nans:
            message = "check_nans=True checks nothing under jax.jit, where there are no values yet. Call the metagradient outside of it."
            warnings.warn(message, stacklevel=users_level())
        try:
            return self._program.call(*arrays)
        except NotImplementedError as error:
            if not jax_internals.speaks_of_no_batching_rule(error):
                raise
            raise NotImplementedError(
                "a metagradient cannot be put under jax.vmap. jax.lax.map takes one after the other, in one program."
            ) from None

    def _check(self, given) -> None:
        signature = self._signature
        for tree, value in zip(
            (signature.state, signature.meta, signature.batches, signature.outer), given
        ):
            if jax.tree.structure(value) != tree.structure:
                raise TypeError(
                    f"{tree.name} has the structure {jax.tree.structure(value)}, and this program was compiled for {tree.structure}"
                )
            leaves, stopped_values = iter(tree.leaves), iter(tree.constants)
            for (path, given), is_array in zip(
                jax.tree_util.tree_flatten_with_path(value)[0], tree.is_array
            ):
                if is_array:
                    _check_array(next(leaves), given)
                elif (constant := next(stopped_values)) is not given and not _equal(
                    constant, given
                ):
                    raise TypeError(
                        f"{tree.name}{jax.tree_util.keystr(path)} is {given!r}, and this program was compiled for {constant!r}"
                    )

    def memory_analysis(self):
        """XLA's memory analysis: bytes of arguments, outputs, temporaries and code."""
        return self.xla.memory_analysis()

    def cost(self):
        """XLA's cost analysis of the program. Loops are counted once, so this is no measure of the run's time."""
        return self.xla.cost_analysis()

    def as_text(self) -> str:
        """The optimised HLO."""
        return self.xla.as_text()


def _check_array(leaf: Leaf, given: Any) -> None:
    described = describe(leaf.path, given)
    if described is None:
        raise TypeError(
            f"{leaf.path} is {given!r}, and this program was compiled for {shaped(leaf.aval)}"
        )
    shape, dtype = described.aval.shape, described.aval.dtype
    if shape != leaf.aval.shape:
        raise TypeError(
            f"{leaf.path} has shape {shape}, and this program was compiled for {leaf.aval.shape}"
        )
    # A Python scalar takes the dtype that the program has, if that is of its kind or above.
    if dtype != leaf.aval.dtype and not (
        getattr(described.aval, "weak_type", False) and _rank(dtype) <= _rank(leaf.aval.dtype)
    ):
        raise TypeError(
            f"{leaf.path} is {dtype}, and this program was compiled for {leaf.aval.dtype}"
        )


def _rank(dtype) -> int:
    """Booleans below integers below floating point; keys apart."""
    kinds = (np.bool_, np.integer, np.floating, jax.dtypes.prng_key)
    return next(rank for rank, kind in enumerate(kinds) if jnp.issubdtype(dtype, kind))


def _equal(constant: Any, given: Any) -> bool:
    return (
        type(constant) is type(given) and not hasattr(constant, "dtype") and bool(constant == given)
    )
