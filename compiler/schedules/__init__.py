"""Schedules: which states of a training run are held, and which are run again. Each makes a `metagrad.runtime.plan.Plan`."""

from metagrad.compiler.schedules.accept import as_schedule
from metagrad.compiler.schedules.actions import from_checkpoint_schedules
from metagrad.compiler.schedules.binomial import Binomial
from metagrad.compiler.schedules.lazy_kary import LazyKary
from metagrad.compiler.schedules.periodic import Periodic
from metagrad.compiler.schedules.store_all import StoreAll

__all__ = [
    "Binomial",
    "LazyKary",
    "Periodic",
    "StoreAll",
    "as_schedule",
    "from_checkpoint_schedules",
]
