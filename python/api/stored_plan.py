"""A plan in the manifest of an exported run, and its tables as a payload."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from metagrad.runtime.exported.fields import Fields
from metagrad.runtime.schedules.forward_plan import ForwardPlan
from metagrad.runtime.schedules.plan import Plan

_TABLES = ("load", "segment", "run_steps", "run_save", "run_keep", "run_reuse", "gradient")


def any_to_json(plan: Plan | ForwardPlan) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """`to_json`, of a plan of either mode. One in forward mode has no payload."""
    if isinstance(plan, Plan):
        return to_json(plan)
    return {"mode": "forward"} | {name: getattr(plan, name) for name in _FORWARD}, {}


def any_from_json(fields: Fields, payloads: Mapping[str, np.ndarray]) -> Plan | ForwardPlan:
    """What `any_to_json` made. Raises ValueError as `from_json`."""
    if "mode" not in fields:
        return from_json(fields, payloads)
    if fields.text("mode") != "forward":
        raise ValueError(f"{fields.place}.mode is {fields.text('mode')!r}")
    numbers = {name: fields.integer(name, int(name == "steps")) for name in _FORWARD}
    return ForwardPlan(**numbers)  # type: ignore[arg-type]


_FORWARD = ("steps", "directions", "tangents", "workspace", "growing")


def to_json(plan: Plan, payload: str = "plan") -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The manifest's entry, and the payload of that name.

    It has the plan's tables, one behind the other, as little-endian int32. `Plan.jsonable`
    compresses them, and a few bytes of a hostile file could then ask for gigabytes.
    """
    described = {
        "steps": plan.steps,
        "state_slots": plan.state_slots,
        "gradient_slots": plan.gradient_slots,
        "runs": plan.runs,
        "schedule": plan.schedule,
    }
    tables = np.concatenate([getattr(plan, name) for name in _TABLES]).astype("<i4")
    return described, {payload: tables}


def from_json(fields: Fields, payloads: Mapping[str, np.ndarray], payload: str = "plan") -> Plan:
    """What `to_json` made, run on step numbers.

    Raises:
      ValueError: it is not as it must be; the message names the field.
    """
    if payload not in payloads:
        raise ValueError(f"it has no payload {payload!r}")
    steps, runs = fields.integer("steps", 1), fields.integer("runs")
    lengths = {"load": steps + 1, "segment": steps + 2, "gradient": steps + 1}
    sizes = [lengths.get(name, runs) for name in _TABLES]
    memory = payloads[payload]
    if memory.nbytes != 4 * sum(sizes):
        raise ValueError(
            f"the plan's tables have {memory.nbytes} bytes, not {4 * sum(sizes)} as for {steps} "
            f"steps and {runs} runs"
        )
    ends = np.cumsum(sizes)
    tables = np.split(memory.view("<i4").astype(np.int32), ends[:-1])
    options: dict[str, Any] = dict(zip(_TABLES, tables))
    slots = fields.integer("state_slots", 1), fields.integer("gradient_slots")
    if max(slots) > steps + 1:
        raise ValueError(f"the plan has {max(slots)} slots for {steps} steps")
    plan = Plan(
        steps=steps,
        state_slots=slots[0],
        gradient_slots=slots[1],
        schedule=fields.text("schedule"),
        **options,
    )
    plan.validate()
    return plan
