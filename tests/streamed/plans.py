"""Plans in two levels of a shape that a test asks for: short segments, few slots."""

from metagrad import Binomial, StoreAll
from metagrad.runtime.schedules.two_level import TIERS, SegmentSlots, TwoLevelPlan


def two_level(lowered, steps, length, slots=2, tiers=("host",), within=None):
    """A plan for `steps` steps in segments of `length`, with `slots` states between segments.

    The slots lie in the tiers in turn. `within` is the schedule of a segment.
    """
    outer = Binomial(slots, keep_gradients=False).plan(-(-steps // length), gradients=False)
    places = tuple(TIERS.index(tiers[i % len(tiers)]) for i in range(outer.state_slots))
    segment = SegmentSlots.of(length, within or StoreAll(), lowered.program.has_gradients)
    return TwoLevelPlan(steps, outer, places, segment, lowered.plan.sizes)


def with_plan(lowered, length, slots=2, tiers=("host",), within=None):
    """The lowered metagradient, with such a plan in the place of its own."""
    lowered._plan = two_level(lowered, lowered.program.steps, length, slots, tiers, within)
    return lowered


def compiled(mg, *arguments, length=4, slots=2, tiers=("host",), within=None):
    """A metagradient, compiled with such a plan."""
    return with_plan(mg.lower(*arguments), length, slots, tiers, within).compile()
