"""A second simulator of plans, in Python: the oracle of the native one.

It is written from nothing but the definition in metagrad.runtime.schedules.plan.
"""

from __future__ import annotations

from typing import NamedTuple


class Wrong(Exception):
    """The plan does not do what a plan must."""


class Run(NamedTuple):
    """What happened.

    Attributes:
      advances: steps with a computed gradient.
      updates: steps with a kept gradient.
      on_the_spot: VJPs without a kept gradient.
      state_peak, gradient_peak: slots in use at the worst moment.
    """

    advances: int
    updates: int
    on_the_spot: int
    state_peak: int
    gradient_peak: int


class Slots:
    def __init__(self, count):
        self.count, self.content = count, {}
        self.lives = []  # [written, last read] of each content

    def write(self, slot, content, now):
        if not 0 <= slot < self.count:
            raise Wrong("write outside")
        life = [now, now]
        self.content[slot] = (content, life)
        self.lives.append(life)

    def read(self, slot, content, now):
        if slot not in self.content or not 0 <= slot < self.count:
            raise Wrong("read of nothing")
        stored, life = self.content[slot]
        if content is not None and stored != content:
            raise Wrong("another step")
        life[1] = now
        return stored

    def peak(self):
        # In use from the event that writes it to the event that reads it last; what is never read
        # is not in use.
        used = [life for life in self.lives if life[1] > life[0]]
        return max((sum(w <= start <= r for w, r in used) for start, _ in used), default=0)


def run(plan) -> Run:
    T = plan.steps
    states, gradients = Slots(plan.state_slots), Slots(plan.gradient_slots)
    bounds = [int(b) for b in plan.segment]
    if (
        bounds[0] != 0
        or bounds != sorted(bounds)
        or bounds[-1] != len(plan.run_steps)
        or plan.load[0] != 0
        or plan.gradient[0] != -1
    ):
        raise Wrong("tables")
    states.write(0, 0, 0)
    advances = updates = on_the_spot = 0
    now = 1
    for r in range(T + 1):
        state = states.read(int(plan.load[r]), None, now)
        now += 1
        for q in range(bounds[r], bounds[r + 1]):
            steps, save, keep, reuse = (
                int(table[q])
                for table in (plan.run_steps, plan.run_save, plan.run_keep, plan.run_reuse)
            )
            if steps < 1 or min(save, keep, reuse) < -1 or (keep >= 0 and reuse >= 0):
                raise Wrong("run")
            for i in range(steps):
                if state == T:
                    raise Wrong("beyond the end")
                if reuse >= 0:
                    gradients.read(reuse + i, state, now)
                    updates += 1
                else:
                    advances += 1
                if keep >= 0:
                    gradients.write(keep + i, state, now)
                state += 1
            if save >= 0:
                states.write(save, state, now)
            now += 1
        if state != (T if r == 0 else T - r):
            raise Wrong("the VJP sees another state")
        taken = int(plan.gradient[r])
        if taken < -1:
            raise Wrong("gradient")
        if taken >= 0:
            gradients.read(taken, state, now)
        elif r > 0:
            on_the_spot += 1
        now += 1
    return Run(advances, updates, on_the_spot, states.peak(), gradients.peak())
