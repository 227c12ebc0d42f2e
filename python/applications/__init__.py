"""What metagradients are for: each module does one job on the user's own training step.

A module is imported when it is first asked for: `metagrad.applications.label_cleaning.clean(...)`.
"""

import importlib
import pkgutil
from typing import Any


def __getattr__(name: str) -> Any:
    if name in __dir__():
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)


def __dir__() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))
