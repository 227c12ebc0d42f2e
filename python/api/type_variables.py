"""The type variables of the public interface.

Each has the default Any, so that a step without annotations, or a lambda, is a step of anything for
a type checker. `typing` has such variables from Python 3.13; type checkers know them in all
versions.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    StateT = TypeVar("StateT", bound=Any, default=Any)
    MetaT = TypeVar("MetaT", bound=Any, default=Any)
    BatchT = TypeVar("BatchT", bound=Any, default=Any)
    AuxT = TypeVar("AuxT", bound=Any, default=Any)
    OuterAuxT = TypeVar("OuterAuxT", bound=Any, default=Any)
    ValueT = TypeVar("ValueT", bound=Any, default=Any)
    GradT = TypeVar("GradT", bound=Any, default=Any)
    # NoAux, or Aux[what a step returns beside its state]
    KindT = TypeVar("KindT", bound=Any, default=Any)
    # what an inner gradient is taken with respect to
    ArgT = TypeVar("ArgT", bound=Any, default=Any)
    StateT_contra = TypeVar("StateT_contra", bound=Any, default=Any, contravariant=True)
else:
    from typing import TypeVar

    StateT = TypeVar("StateT")
    MetaT = TypeVar("MetaT")
    BatchT = TypeVar("BatchT")
    AuxT = TypeVar("AuxT")
    OuterAuxT = TypeVar("OuterAuxT")
    ValueT = TypeVar("ValueT")
    GradT = TypeVar("GradT")
    KindT = TypeVar("KindT")
    ArgT = TypeVar("ArgT")
    StateT_contra = TypeVar("StateT_contra", contravariant=True)
