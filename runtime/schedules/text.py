"""A schedule as the call that makes it: `LazyKary(k=4)`.

Arguments that have their default values are left out.
"""

from __future__ import annotations

import dataclasses


def call(schedule) -> str:
    first, *rest = dataclasses.fields(schedule)
    shown = [
        f
        for f in (first, *rest)
        if getattr(schedule, f.name) != f.default or (f is first and type(f.default) is int)
    ]
    arguments = ", ".join(f"{f.name}={getattr(schedule, f.name)!r}" for f in shown)
    return f"{type(schedule).__name__}({arguments})"
