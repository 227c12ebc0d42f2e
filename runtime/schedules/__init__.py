"""Schedules: which states of a training run are held, and which are run again.

Each makes a `metagrad.runtime.schedules.plan.Plan`.
"""

from metagrad.runtime.schedules.accept import as_schedule
from metagrad.runtime.schedules.actions import from_checkpoint_schedules
from metagrad.runtime.schedules.auto import Auto
from metagrad.runtime.schedules.binomial import Binomial
from metagrad.runtime.schedules.lazy_kary import LazyKary
from metagrad.runtime.schedules.periodic import Periodic
from metagrad.runtime.schedules.store_all import StoreAll

__all__ = [
    "Auto",
    "Binomial",
    "LazyKary",
    "Periodic",
    "StoreAll",
    "as_schedule",
    "from_checkpoint_schedules",
]
