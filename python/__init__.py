"""metagrad: exact gradients of whole training runs, compiled.

Decorate a training step with `metagrad.compile`, call `metagrad.grad` for the inner gradient, and
take `train_step.metagradient(outer)`.

A name is imported when it is first asked for. So `metagrad-opt` and `python -m metagrad --help`,
which need a part of the package, do not wait for JAX.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metagrad.api.approximations import FirstOrder, Truncated
    from metagrad.api.attention import dot_product_attention
    from metagrad.api.check import check
    from metagrad.api.grad import grad, value_and_grad
    from metagrad.api.load import load
    from metagrad.api.loaded import Loaded
    from metagrad.api.loaded_stream import LoadedStream
    from metagrad.api.metagradient import Metagradient
    from metagrad.api.results import Result, ResultWithAux
    from metagrad.api.stages import Compiled, Lowered
    from metagrad.api.train_step import TrainStep, compile
    from metagrad.compiler.enzyme.worker import EnzymeError
    from metagrad.diagnostics.approximation_report import ApproximationReport
    from metagrad.diagnostics.check_report import CheckReport
    from metagrad.diagnostics.finite_differences import DirectionCheck
    from metagrad.mgd.descent import descent
    from metagrad.runtime.executors.replay_check import ReplayError
    from metagrad.runtime.exported.container import InvalidFile
    from metagrad.runtime.journal import JournalError
    from metagrad.runtime.progress_reports import Progress
    from metagrad.runtime.schedules import Auto, Binomial, LazyKary, Periodic, StoreAll
    from metagrad.runtime.schedules.forward_plan import ForwardPlan
    from metagrad.runtime.schedules.plan import Plan
    from metagrad.runtime.schedules.two_level import TwoLevelPlan
    from metagrad.runtime.streams import Stream
    from metagrad.smoothness.measure import metasmoothness
    from metagrad.smoothness.report import DirectionSmoothness, Metasmoothness

    __version__: str

__all__ = [
    "ApproximationReport",
    "Auto",
    "Binomial",
    "CheckReport",
    "Compiled",
    "DirectionCheck",
    "DirectionSmoothness",
    "EnzymeError",
    "FirstOrder",
    "ForwardPlan",
    "InvalidFile",
    "JournalError",
    "LazyKary",
    "Loaded",
    "LoadedStream",
    "Lowered",
    "Metagradient",
    "Metasmoothness",
    "Periodic",
    "Plan",
    "Progress",
    "ReplayError",
    "Result",
    "ResultWithAux",
    "StoreAll",
    "Stream",
    "TrainStep",
    "Truncated",
    "TwoLevelPlan",
    "check",
    "compile",
    "descent",
    "dot_product_attention",
    "grad",
    "load",
    "metasmoothness",
    "value_and_grad",
]

_HOMES = {
    "api.approximations": ("FirstOrder", "Truncated"),
    "api.attention": ("dot_product_attention",),
    "api.check": ("check",),
    "api.grad": ("grad", "value_and_grad"),
    "api.load": ("load",),
    "api.loaded": ("Loaded",),
    "api.loaded_stream": ("LoadedStream",),
    "api.metagradient": ("Metagradient",),
    "api.results": ("Result", "ResultWithAux"),
    "api.stages": ("Compiled", "Lowered"),
    "api.train_step": ("TrainStep", "compile"),
    "compiler.enzyme.worker": ("EnzymeError",),
    "diagnostics.approximation_report": ("ApproximationReport",),
    "diagnostics.check_report": ("CheckReport",),
    "diagnostics.finite_differences": ("DirectionCheck",),
    "mgd.descent": ("descent",),
    "runtime.executors.replay_check": ("ReplayError",),
    "runtime.journal": ("JournalError",),
    "runtime.progress_reports": ("Progress",),
    "runtime.exported.container": ("InvalidFile",),
    "runtime.schedules": ("Auto", "Binomial", "LazyKary", "Periodic", "StoreAll"),
    "runtime.schedules.forward_plan": ("ForwardPlan",),
    "runtime.schedules.plan": ("Plan",),
    "runtime.schedules.two_level": ("TwoLevelPlan",),
    "runtime.streams": ("Stream",),
    "smoothness.measure": ("metasmoothness",),
    "smoothness.report": ("DirectionSmoothness", "Metasmoothness"),
}
"""The public names, by the module that each is imported from."""

_MODULES = ("applications", "attribution", "mgd", "smoothness")
"""Public modules, whose names stand behind theirs: `metagrad.attribution.scores`."""

_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

# Not for type checkers: they would take any misspelt name for one that is made here.
if not TYPE_CHECKING:

    def __getattr__(name):
        if name in _MODULE_OF:
            value = getattr(importlib.import_module(f"metagrad.{_MODULE_OF[name]}"), name)
        elif name in _MODULES:
            value = importlib.import_module(f"metagrad.{name}")
        elif name == "__version__":
            value = importlib.import_module("importlib.metadata").version("metagrad")
        else:
            raise AttributeError(f"module 'metagrad' has no attribute {name!r}", name=name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__, *_MODULES, "__version__"})
