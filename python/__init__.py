"""metagrad: exact gradients of whole training runs, compiled.

Decorate a training step with `metagrad.compile`, call `metagrad.grad` for the inner gradient, and take `train_step.metagradient(outer)`.
"""

from importlib.metadata import version as _version

from metagrad.compiler.schedules import Binomial, LazyKary, Periodic, StoreAll
from metagrad.compiler.worker import EnzymeError
from metagrad.frontend.decorator import TrainStep, compile
from metagrad.frontend.gradient import grad, value_and_grad
from metagrad.frontend.lowered import Compiled, Lowered
from metagrad.frontend.metagradient import Metagradient, Result, ResultWithAux
from metagrad.runtime.plan import Plan

__version__ = _version("metagrad")

__all__ = [
    "Binomial",
    "Compiled",
    "EnzymeError",
    "LazyKary",
    "Lowered",
    "Metagradient",
    "Periodic",
    "Plan",
    "Result",
    "ResultWithAux",
    "StoreAll",
    "TrainStep",
    "compile",
    "grad",
    "value_and_grad",
]
