"""What the manifest of a streamed run says of it beside what every run has: written and read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from metagrad.api import stored_plan, stored_schedule
from metagrad.api.signature import Signature
from metagrad.api.stored_schedule import WithPlans
from metagrad.runtime.executors.kernels import StepLayout
from metagrad.runtime.exported.fields import Fields
from metagrad.runtime.schedules.arguments import MOST_STEPS
from metagrad.runtime.schedules.costs import Sizes
from metagrad.runtime.schedules.loop_tables import Features
from metagrad.runtime.schedules.moves import TIERS
from metagrad.runtime.schedules.segment_tables import Segment
from metagrad.runtime.schedules.two_level import MOST_SLOTS, SegmentSlots, TwoLevelPlan

_SEGMENT_PLANS = ("whole", "last")
"""The plans of segments that are in a file: of L steps, and of those that are left for the last."""

_CARRIED = ("changed", "stored", "state_bar", "meta_bar", "batch_bar")
"""The fields of a `StepLayout` that do not follow from the trees."""


def to_json(
    layout: StepLayout, plan: TwoLevelPlan, segment: Segment
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The manifest's entries "streamed" and "plan", and the payloads.

    Raises:
      ValueError: the segments follow a schedule that a file does not hold.
    """
    outer, payloads = stored_plan.to_json(plan.outer)
    segment_plans = {}
    for name, count in zip(_SEGMENT_PLANS, _counts(plan)):
        segment_plans[name], tables = stored_plan.to_json(
            plan.segment_slots.plan(count), f"segment/{name}"
        )
        payloads |= tables
    streamed = {
        "steps": plan.steps,
        "tiers": [TIERS[i] for i in plan.tier_of_slot],
        "room": dict(zip(TIERS, plan.room)),
        "sizes": dataclasses.asdict(plan.sizes),
        "layout": {name: list(getattr(layout, name)) for name in _CARRIED},
        "segment": {
            "steps": segment.steps,
            "state_slots": segment.state_slots,
            "gradient_slots": segment.gradient_slots,
            "has_gradients": plan.segment_slots.has_gradients,
            "features": dataclasses.asdict(segment.features),
            "checksums": segment.checksums,
            "schedule": stored_schedule.to_json(plan.segment_slots.schedule),
            "plans": segment_plans,
        },
    }
    return {"streamed": streamed, "plan": outer}, payloads


def plan_from_json(contents: Fields, payloads: Mapping[str, np.ndarray]) -> TwoLevelPlan:
    """The plan, run on step numbers.

    Raises:
      ValueError, TypeError: an entry is not as it must be.
    """
    fields = contents.object("streamed")
    tiers = fields.texts("tiers")
    if {*tiers} - {*TIERS}:
        raise ValueError(f"{fields.place}.tiers has others than {', '.join(TIERS)}")
    sizes, room = fields.object("sizes"), fields.object("room")
    at_most = lambda tier: _at_most(room, tier, MOST_SLOTS, 0)
    schedule = _schedule(fields.object("segment"), payloads)
    plan = TwoLevelPlan(
        _at_most(fields, "steps", MOST_STEPS),
        stored_plan.from_json(contents.object("plan"), payloads),
        tuple(map(TIERS.index, tiers)),
        _slots(fields.object("segment"), schedule),
        Sizes(*(_at_most(sizes, field.name, 2**63, 0) for field in dataclasses.fields(Sizes))),
        room=(at_most("device"), at_most("host"), at_most("disk")),
    )
    known = schedule.plans
    if plan.segment > plan.steps or {*known} != {*_counts(plan)}:
        raise ValueError(
            f"{plan.steps} steps in segments of {plan.segment}, and the plans of segments are of "
            f"{' and '.join(map(str, known))}"
        )
    plan.validate()
    return plan


def _counts(plan: TwoLevelPlan) -> tuple[int, int]:
    """Steps of a whole segment, and of the last one."""
    return min(plan.segment, plan.steps), (plan.steps - 1) % plan.segment + 1


def _schedule(fields: Fields, payloads: Mapping[str, np.ndarray]) -> WithPlans:
    stored = fields.object("plans")
    plans = [
        stored_plan.from_json(stored.object(name), payloads, f"segment/{name}")
        for name in _SEGMENT_PLANS
    ]
    maker = stored_schedule.from_json(fields.object("schedule"))
    return WithPlans(maker, {plan.steps: plan for plan in plans})


def _slots(fields: Fields, schedule: WithPlans) -> SegmentSlots:
    steps = fields.integer("steps", 1)
    return SegmentSlots(
        steps,
        schedule,
        _at_most(fields, "state_slots", steps + 1),
        _at_most(fields, "gradient_slots", steps, 0),
        fields.flag("has_gradients"),
    )


def segment_from_json(contents: Fields, plan: TwoLevelPlan) -> Segment:
    """What the programs are for.

    Raises:
      ValueError: an entry is not as it must be, or the plan of a segment does what the programs
        cannot do.
    """
    fields = contents.object("streamed").object("segment")
    flags = fields.object("features")
    features = Features(*(flags.flag(field.name) for field in dataclasses.fields(Features)))
    slots = plan.segment_slots
    segment = Segment(
        slots.steps, slots.state_slots, slots.gradient_slots, features, fields.flag("checksums")
    )
    segment.checked(plan.inner, gradients=slots.has_gradients)
    return segment


def layout_from_json(contents: Fields, signature: Signature) -> StepLayout:
    """What stands where in the flat lists of arrays.

    Raises:
      ValueError: a leaf is named that there is not, or of which there is no cotangent.
    """
    fields = contents.object("streamed").object("layout")
    state, meta, batches, outer = signature.arguments
    floats = lambda tree: {i for i, leaf in enumerate(tree.leaves) if leaf.is_float}
    changed = _leaves(fields, "changed", {*range(len(state.leaves))})
    return StepLayout(
        len(state.leaves),
        len(meta.leaves),
        len(batches.leaves),
        len(outer.leaves),
        changed=changed,
        stored=_leaves(fields, "stored", {*changed}),
        state_bar=_leaves(fields, "state_bar", floats(state)),
        meta_bar=_leaves(fields, "meta_bar", floats(meta)),
        batch_bar=_leaves(fields, "batch_bar", floats(batches)),
        wrt=signature.wrt,
        float_leaves=signature.float_leaves,
        outer_aux=len(signature.outer_aux.leaves),
        aux=len(signature.aux.leaves),
    )


def _leaves(fields: Fields, name: str, known: set[int]) -> tuple[int, ...]:
    places = fields.sequence(name)
    if not all(type(i) is int and i in known for i in places) or places != sorted({*places}):
        raise ValueError(f"{fields.place}.{name} is not a list of leaves in order: {places}")
    return tuple(places)


def _at_most(fields: Fields, name: str, most: int, least: int = 1) -> int:
    value = fields.integer(name, least)
    if value > most:
        raise ValueError(f"{fields.place}.{name} is {value}, above {most}")
    return value
