"""What `metagrad.compile` takes and returns, for type checkers.

Nothing here is used when a program runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, overload

from metagrad.api.results import Aux, NoAux
from metagrad.api.type_variables import AuxT, BatchT, KindT, MetaT, StateT, StateT_contra

if TYPE_CHECKING:
    from metagrad.api.train_step import TrainStep

Mode: TypeAlias = Literal["auto", "enzyme", "jax"]


class Outer(Protocol[StateT_contra]):
    """An outer function: a scalar of the final state and of further arguments, or a vector."""

    def __call__(self, state: StateT_contra, /, *outer_args: Any, **options: Any) -> Any: ...


class Decorator(Protocol):
    """`metagrad.compile(...)` with options, for a step that returns its state."""

    @overload
    def __call__(
        self, step: Callable[[StateT, MetaT, BatchT], StateT], /
    ) -> TrainStep[StateT, MetaT, BatchT, NoAux]: ...
    @overload
    def __call__(
        self, step: Callable[[Any, StateT, MetaT, BatchT], StateT], /
    ) -> StepMethod[StateT, MetaT, BatchT, NoAux]: ...


class DecoratorWithAux(Protocol):
    """`metagrad.compile(has_aux=True)`, for a step that returns `(state, aux)`."""

    @overload
    def __call__(
        self, step: Callable[[StateT, MetaT, BatchT], tuple[StateT, AuxT]], /
    ) -> TrainStep[StateT, MetaT, BatchT, Aux[AuxT]]: ...
    @overload
    def __call__(
        self, step: Callable[[Any, StateT, MetaT, BatchT], tuple[StateT, AuxT]], /
    ) -> StepMethod[StateT, MetaT, BatchT, Aux[AuxT]]: ...


class StepMethod(Protocol[StateT, MetaT, BatchT, KindT]):
    """A decorated method, as its class holds it: a `TrainStep` of each object."""

    def __get__(
        self, instance: Any, owner: type | None = None, /
    ) -> TrainStep[StateT, MetaT, BatchT, KindT]: ...
