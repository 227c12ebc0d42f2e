"""What metagradients are for: each module does one job on the user's own training step.

A module is imported when it is first asked for: `metagrad.applications.poisoning`.
"""

import importlib

_MODULES = ("poisoning",)


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    return importlib.import_module(f"{__name__}.{name}")


def __dir__():
    return sorted({*globals(), *_MODULES})
