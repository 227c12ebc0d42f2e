"""metagrad: exact gradients of whole training runs, compiled.

Decorate a training step with `metagrad.compile`, call `metagrad.grad` for the inner gradient, and take `train_step.metagradient(outer)`.
"""

from importlib.metadata import version as _version

from metagrad.api.grad import grad, value_and_grad
from metagrad.api.metagradient import Metagradient
from metagrad.api.results import Result, ResultWithAux
from metagrad.api.stages import Compiled, Lowered
from metagrad.api.train_step import TrainStep, compile
from metagrad.compiler.enzyme.worker import EnzymeError
from metagrad.runtime.schedules import Binomial, LazyKary, Periodic, StoreAll
from metagrad.runtime.schedules.plan import Plan

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
