"""`metagrad.compile`: the decorator that makes a training step differentiable as a whole run."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, Generic, Literal, Unpack, overload

import jax

from metagrad.api.metagradient import Metagradient, Wrt
from metagrad.api.progress import ProgressOption, check_progress
from metagrad.api.results import Aux, NoAux
from metagrad.api.run_options import RunOptions, check_mode, check_remat, check_run_options
from metagrad.api.step_types import Decorator, DecoratorWithAux, Mode, Outer, StepMethod
from metagrad.api.type_variables import AuxT, BatchT, KindT, MetaT, OuterAuxT, StateT
from metagrad.frontend.partition import MODES


class TrainStep(Generic[StateT, MetaT, BatchT, KindT]):
    """A training step that can still be called, and of which metagradients can be taken.

    `metagrad.compile` makes it. For a type checker it is `TrainStep[state, meta, batch, kind]`; the
    kind says whether there is an auxiliary output.
    """

    def __init__(self, step: Callable, has_aux: bool, ad: str):
        functools.update_wrapper(self, step)
        self._step, self._has_aux, self._ad = step, has_aux, ad

    @overload
    def __call__(
        self: TrainStep[StateT, MetaT, BatchT, NoAux], state: StateT, meta: MetaT, batch: BatchT
    ) -> StateT: ...
    @overload
    def __call__(
        self: TrainStep[StateT, MetaT, BatchT, Aux[AuxT]], state: StateT, meta: MetaT, batch: BatchT
    ) -> tuple[StateT, AuxT]: ...
    def __call__(self, state: Any, meta: Any, batch: Any) -> Any:
        """One plain training step.

        `jit`, `vmap`, `jax.grad` and `lax.scan` work on it as on the undecorated function.
        """
        return self._step(state, meta, batch)

    def __repr__(self) -> str:
        name = getattr(self._step, "__qualname__", None) or repr(self._step)
        has_aux = ", has_aux=True" if self._has_aux else ""
        return f"TrainStep({name}{has_aux}, ad={self._ad!r})"

    def __get__(
        self, instance: Any, owner: type | None = None
    ) -> TrainStep[StateT, MetaT, BatchT, KindT]:
        """The step of one object, for a decorated method.

        As without the decorator, a function binds `self` and a `functools.partial` does not.
        """
        return (
            self
            if instance is None or not hasattr(self._step, "__get__")
            else TrainStep(self._step.__get__(instance, owner), self._has_aux, self._ad)
        )

    @overload
    def metagradient(
        self,
        outer: Outer[StateT],
        wrt: Literal["meta"] = "meta",
        *,
        has_aux: Literal[False] = False,
        **options: Unpack[RunOptions],
    ) -> Metagradient[StateT, MetaT, jax.Array, MetaT, KindT]: ...
    @overload
    def metagradient(
        self,
        outer: Outer[StateT],
        wrt: Literal["state"],
        *,
        has_aux: Literal[False] = False,
        **options: Unpack[RunOptions],
    ) -> Metagradient[StateT, MetaT, jax.Array, StateT, KindT]: ...
    @overload
    def metagradient(
        self,
        outer: Outer[StateT],
        wrt: Literal["batches"],
        *,
        has_aux: Literal[False] = False,
        **options: Unpack[RunOptions],
    ) -> Metagradient[StateT, MetaT, jax.Array, BatchT, KindT]: ...
    @overload
    def metagradient(
        self,
        outer: Outer[StateT],
        wrt: tuple[Wrt, ...] | list[Wrt],
        *,
        has_aux: Literal[False] = False,
        **options: Unpack[RunOptions],
    ) -> Metagradient[StateT, MetaT, jax.Array, tuple[Any, ...], KindT]: ...
    @overload
    def metagradient(
        self,
        outer: Callable[..., tuple[Any, OuterAuxT]],
        wrt: Literal["meta"] = "meta",
        *,
        has_aux: Literal[True],
        **options: Unpack[RunOptions],
    ) -> Metagradient[StateT, MetaT, tuple[jax.Array, OuterAuxT], MetaT, KindT]: ...
    @overload
    def metagradient(
        self,
        outer: Callable[..., tuple[Any, OuterAuxT]],
        wrt: Literal["state"],
        *,
        has_aux: Literal[True],
        **options: Unpack[RunOptions],
    ) -> Metagradient[StateT, MetaT, tuple[jax.Array, OuterAuxT], StateT, KindT]: ...
    @overload
    def metagradient(
        self,
        outer: Callable[..., tuple[Any, OuterAuxT]],
        wrt: Literal["batches"],
        *,
        has_aux: Literal[True],
        **options: Unpack[RunOptions],
    ) -> Metagradient[StateT, MetaT, tuple[jax.Array, OuterAuxT], BatchT, KindT]: ...
    @overload
    def metagradient(
        self,
        outer: Callable[..., tuple[Any, OuterAuxT]],
        wrt: tuple[Wrt, ...] | list[Wrt],
        *,
        has_aux: Literal[True],
        **options: Unpack[RunOptions],
    ) -> Metagradient[StateT, MetaT, tuple[jax.Array, OuterAuxT], tuple[Any, ...], KindT]: ...
    def metagradient(
        self,
        outer: Callable,
        wrt: Any = "meta",
        *,
        has_aux: bool = False,
        schedule: Any = None,
        runtime: str = "auto",
        check_nans: bool | None = None,
        progress: ProgressOption = None,
        resume_dir: str | os.PathLike | None = None,
        save_every: float = 60.0,
        verify: str | None = None,
        mode: str = "reverse",
        approximation: Any = None,
        remat: str = "auto",
    ) -> Metagradient[Any, Any, Any, Any, Any]:
        """The gradient of what a training run ends up with.

        Args:
          outer: `outer(state, *outer_args)`, a real scalar of the final state, or a vector of Q of
              them; `(scalar, aux)` or `(vector, aux)` with `has_aux`. Of a vector, `value` has the
              shape [Q] and each leaf of `grad` a leading axis of length Q, as with `jax.jacrev`: Q
              queries of one run, which is made and replayed once for all.
          wrt: what to differentiate with respect to: "meta", "state" (the initial state),
              "batches", or a tuple of them.
          has_aux: whether `outer` returns auxiliary data; the result's `value` is then the pair, as
              in `jax.value_and_grad`.
          schedule: which states are held and which are run again: `LazyKary(k)`, `Binomial(slots)`,
            `Periodic(every)`, `StoreAll()`, or a schedule of the `checkpoint_schedules` package.
            `Auto(memory="4GiB")` is the fastest plan within a budget, from costs that are measured
            on this machine. None is `Auto()`, whose budget is what is free (of a CPU's memory, half
            of it); as long as that is ample, costs are estimated and nothing is measured.
          runtime: who walks the plan.
            "fused": one XLA program, which has all batches as arrays.
            "streamed": the host. It brings the batches of some steps at a time, and what it holds
            may be on the device, in host memory or on disk (docs/long_runs.md).
            "auto": streamed if the batches are a `metagrad.Stream`, or if a budget of `Auto` is too
            small for one program; else fused.
            A fused run does not take resume_dir and verify: a ValueError says so.
          check_nans: what a NaN in the result does.
            None (the default): a RuntimeWarning, once for each compiled program. It names the leaf,
            the step and where a root of zero was taken. It costs reading one boolean of the result,
            and one more training run if there is a NaN.
            True: a FloatingPointError that says at which step of the reversal the NaN first
            appeared. That search keeps every state.
            False: nothing, and the call does not wait for the result.
            Under `jax.jit` nothing is checked, and True warns that it is not.
            Whatever is given here, `jax_debug_nans` raises the error of True.
          progress: what is shown while a program is compiled, and while a streamed run goes on.
            None (the default): the stage or a bar, on a terminal or in a notebook, after two
            seconds. METAGRAD_PROGRESS=0 switches that off.
            True: the same at once, and as plain lines where the standard error is not a terminal.
            False: nothing.
            A function: it is called with a `metagrad.Progress`, and nothing is shown.
          resume_dir: a directory for what a streamed run needs to go on after it was killed. The
            same call with the same arguments goes on from the last point that was saved, and gives
            the same bits. At the end the directory is emptied.
          save_every: seconds between two points, at least.
          remat: whether activations are computed again and not kept (docs/remat.md).
            "blocks": of each inner gradient and of the outer function what goes into a block is
            kept, and the rest is computed again when the derivative comes to the block. Blocks are
            turns of a scan, what a loop over equal layers repeats, and functions that are called
            several times, with products of matrices in them; `lowered.explain()` lists them. JAX
            differentiates a function in which there are any.
            "none": nothing, but what the loss puts into a `jax.checkpoint` itself.
            "auto" (the default): as "none" as long as it fits. With a schedule `Auto`, blocks are
            tried where steps would otherwise be run again for want of memory, and the faster plan
            is taken; with any other, where the activations of a step do not fit what is free.
          verify: "replay" compares the states that a streamed run computes again with those of the
            training run, bit for bit, and raises `metagrad.ReplayError` if they differ.
          mode: in which direction the run is differentiated; the gradient is the same.
            "reverse" (the default): back from the outer value. The cost does not depend on how
            many numbers `wrt` names, and the schedule says what is stored.
            "forward": tangents of the state go along with it, one for each number that `wrt`
            names. Nothing is stored, so memory does not grow with the number of steps; time and
            memory grow with the count of numbers (docs/forward_mode.md).
            "auto": the one that is predicted to be faster, or that fits the memory. Both are
            traced, which takes longer. `lowered.explain()` says which, and why.
          approximation: `metagrad.FirstOrder()`, `metagrad.Truncated(steps=K)`, or a tuple of the
            two: a gradient that leaves something out (docs/approximations.md). `metagrad.check`
            compares it with the exact one. None: the exact gradient.

        Returns:
          A callable `mg(state0, meta, batches, *outer_args) -> Result(value, grad, state)`.

        Raises:
          TypeError, ValueError: an argument is not one of the above.
        """
        if not callable(outer):
            raise TypeError(f"outer must be a function of the final state, not {outer!r}")
        check_progress(progress)
        check_run_options(runtime, resume_dir, save_every, verify)
        check_mode(mode, schedule, runtime, resume_dir, verify)
        check_remat(remat, self._ad)
        return Metagradient(
            self._step,
            outer,
            step_has_aux=self._has_aux,
            wrt=wrt,
            has_aux=has_aux,
            schedule=schedule,
            ad=self._ad,
            check_nans=check_nans,
            progress=progress,
            runtime=runtime,
            resume_dir=resume_dir,
            save_every=save_every,
            verify=verify,
            mode=mode,
            approximation=approximation,
            remat=remat,
        )


@overload
def compile(
    step: Callable[[StateT, MetaT, BatchT], StateT],
    *,
    has_aux: Literal[False] = False,
    ad: Mode = "auto",
) -> TrainStep[StateT, MetaT, BatchT, NoAux]: ...
@overload
def compile(
    step: Callable[[Any, StateT, MetaT, BatchT], StateT],
    *,
    has_aux: Literal[False] = False,
    ad: Mode = "auto",
) -> StepMethod[StateT, MetaT, BatchT, NoAux]: ...
@overload
def compile(
    step: Callable[[StateT, MetaT, BatchT], tuple[StateT, AuxT]],
    *,
    has_aux: Literal[True],
    ad: Mode = "auto",
) -> TrainStep[StateT, MetaT, BatchT, Aux[AuxT]]: ...
@overload
def compile(
    step: Callable[[Any, StateT, MetaT, BatchT], tuple[StateT, AuxT]],
    *,
    has_aux: Literal[True],
    ad: Mode = "auto",
) -> StepMethod[StateT, MetaT, BatchT, Aux[AuxT]]: ...
@overload
def compile(*, has_aux: Literal[False] = False, ad: Mode = "auto") -> Decorator: ...
@overload
def compile(*, has_aux: Literal[True], ad: Mode = "auto") -> DecoratorWithAux: ...
@overload
def compile(*, has_aux: bool, ad: Mode = "auto") -> Callable[[Callable], Any]: ...
def compile(step: Any = None, *, has_aux: bool = False, ad: str = "auto") -> Any:
    """Decorates a training step `step(state, meta, batch) -> new_state`.

    Args:
      step: one optimiser step, of any JAX code and any pytrees. The new state must have the
          structure, shapes and dtypes of the state.
      has_aux: whether the step returns `(new_state, aux)`.
      ad: who differentiates. "auto": Enzyme, each function for which it is proven to mean what JAX
          means, and JAX the others. "enzyme": Enzyme, and the others are refused. "jax": JAX, all
          of them.

    Returns:
      A `TrainStep`: still the plain step when called, with `.metagradient(...)`.

    Raises:
      ValueError: `ad` is not one of the above.
      TypeError: `step` is not a function.

    >>> import jax.numpy as jnp, metagrad
    >>> @metagrad.compile
    ... def step(w, lr, x):
    ...     return w - lr * metagrad.grad(lambda w: jnp.sum((w - x) ** 2))(w)
    >>> mg = step.metagradient(lambda w: jnp.sum(w ** 2))
    >>> value, grad, w = mg(jnp.zeros(2), 0.1, jnp.ones((3, 2)))
    >>> round(float(value), 4), round(float(grad), 4)
    (0.4763, 7.4957)
    """
    if ad not in MODES:
        raise ValueError(f"ad={ad!r} is none of {', '.join(map(repr, MODES))}")
    if step is None:
        # The overloads are for calls whose options a type checker knows.
        return lambda decorated: compile(decorated, has_aux=has_aux, ad=ad)  # type: ignore[call-overload]
    if not callable(step):
        raise TypeError(f"metagrad.compile decorates a function, not {step!r}")
    return TrainStep(step, has_aux, ad)
