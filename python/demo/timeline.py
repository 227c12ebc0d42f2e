"""What a plan does, in order of time: the strokes that a drawing of it is made of.

Time is counted in steps of work; a VJP counts as one. The tables of a
`metagrad.runtime.schedules.plan.Plan` are read by the rules that its executor follows: segment 0 is
the training run, and segment r rebuilds what the VJP at t = T - r needs. This takes O(steps run).
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
            count, keep, reuse, save = (
                int(table[run])
                for table in (plan.run_steps, plan.run_keep, plan.run_reuse, plan.run_save)
            )
            runs.append(
                Run(step, step + count, time, FROM_KEPT if reuse >= 0 else COMPUTED, segment)
            )
            for i in range(count):
                time += 1
                if reuse >= 0:
                    gradients[reuse + i][2] = time
                if keep >= 0:
                    store(gradients, held_gradients, keep + i, step + i)
            step += count
            if save >= 0:
                store(states, held_states, save, step)
        if segment:
            gradient_slot = int(plan.gradient[segment])
            if gradient_slot >= 0:
                gradients[gradient_slot][2] = time
            vjps.append(Vjp(step, time, gradient_slot >= 0))
            time += 1
    held_states += [Held(step, slot, since, until) for slot, (step, since, until) in states.items()]
    held_gradients += [
        Held(step, slot, since, until) for slot, (step, since, until) in gradients.items()
    ]
    return Timeline(runs, vjps, held_states, held_gradients, time)
