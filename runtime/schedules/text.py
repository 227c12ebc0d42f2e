"""A schedule as the call that makes it, without the arguments that are left at their defaults: `LazyKary(k=4)`."""

from __future__ import annotations

import dataclasses


def call(schedule) -> str:
    first, *rest = dataclasses.fields(schedule)
    shown = [
        f
        for f in (first, *rest)
        if getattr(schedule, f.name) != f.default or (f is first and type(f.default) is int)
    ]
    return f"{type(schedule).__name__}({', '.join(f'{f.name}={getattr(schedule, f.name)!r}' for f in shown)})"
