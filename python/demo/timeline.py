"""What a plan does, in order of time: the strokes that a drawing of it is made of. Time is counted
in steps of work; a VJP counts as one.

Reads the tables of a `metagrad.runtime.schedules.plan.Plan`, by the rules its executor follows:
segment 0 is the training run; segment r rebuilds what the VJP at t = T - r needs. O(steps run),
numpy lists.
"""

from typing import NamedTuple

COMPUTED, FROM_KEPT = "computed", "from kept gradient"


class Run(NamedTuple):
    """The state is advanced from s_first to s_last."""

    first: int
    last: int
    time: int  # when it starts
    kind: str  # COMPUTED, or FROM_KEPT: the optimiser's update alone, its gradient was kept
    segment: int  # 0 for the training run


class Vjp(NamedTuple):
    """The VJP of step t."""

    step: int
    time: int
    kept: bool  # its inner gradient was waiting in a slot


class Held(NamedTuple):
    """A slot holds s_t (or G_t, the step's inner gradients) from one time to its last use."""

    step: int
    slot: int
    since: int
    until: int


class Timeline(NamedTuple):
    runs: list
    vjps: list
    states: list
    gradients: list
    end: int  # time in all


def timeline(plan):
    """Follows `plan` through its segments."""
    # slot -> [step, since, until]
    states: dict[int, list] = {0: [0, 0, 0]}
    gradients: dict[int, list] = {}
    runs, vjps = [], []
    held_states: list = []
    held_gradients: list = []
    time = 0

    def store(slots, finished, slot, step):
        if slot in slots:
            old, since, until = slots[slot]
            finished.append(Held(old, slot, since, until))
        slots[slot] = [step, time, time]

    for segment in range(plan.steps + 1):
        slot = int(plan.load[segment])
        states[slot][2] = time
        step = states[slot][0]
        for run in range(int(plan.segment[segment]), int(plan.segment[segment + 1])):
            many, keep, reuse, save = (
                int(table[run])
                for table in (plan.run_steps, plan.run_keep, plan.run_reuse, plan.run_save)
            )
            runs.append(
                Run(step, step + many, time, FROM_KEPT if reuse >= 0 else COMPUTED, segment)
            )
            for one in range(many):
                time += 1
                if reuse >= 0:
                    gradients[reuse + one][2] = time
                if keep >= 0:
                    store(gradients, held_gradients, keep + one, step + one)
            step += many
            if save >= 0:
                store(states, held_states, save, step)
        if segment:
            kept = int(plan.gradient[segment])
            if kept >= 0:
                gradients[kept][2] = time
            vjps.append(Vjp(step, time, kept >= 0))
            time += 1
    held_states += [Held(step, slot, since, until) for slot, (step, since, until) in states.items()]
    held_gradients += [
        Held(step, slot, since, until) for slot, (step, since, until) in gradients.items()
    ]
    return Timeline(runs, vjps, held_states, held_gradients, time)
