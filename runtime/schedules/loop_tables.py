"""A plan as the loop of compiler/passes/schedule_loop.py reads it: tables of integers.

The loop runs *walks*. A walk is a segment of the plan that runs steps, or the first one after the
training run, together with the segments behind it that run none: their VJPs follow one another,
each with a state and a gradient from slots, and nothing has to be decided between them.

    for w in walks:
        state := state slot walk_load[w], which is the state at step walk_start[w]
        for q in walk_run[w] .. walk_run[w + 1]:                 # runs
            for i in 0 .. run_steps[q]:
                G := gradient slot run_reuse[q] + i              if run_reuse[q] >= 0, else computed
                gradient slot run_keep[q] + i := G               if run_keep[q] >= 0
                state := update(state, G)                        if run_update[q]
                state slot run_save[q] + run_stride[q] * i := state
                                    if run_save[q] >= 0, and run_stride[q] or this step is the last
        for r in max(1, walk_segment[w]) .. walk_segment[w + 1]:
            VJP at t = T - r, of state slot vjp_state[r] and gradient slot vjp_gradient[r]

Behind the plan's slots of each kind stands one slot more, if the tables name it
(`LoopTables.names_behind`). A state that is made for the VJP alone goes there, and a gradient that
is computed on the spot. So a VJP finds both in a slot, and no loop
around it carries them: what a loop carries and replaces, XLA copies twice.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from metagrad.runtime.schedules.plan import Plan

Columns = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Features:
    """What the plans of a program do. What all of them do, or none, the loop need not decide.

    Attributes:
      keeps: gradients are kept in slots.
      reuses: steps are made again from kept gradients.
      on_the_spot: a VJP's gradient is computed for it: its last run stops before the update.
      stores_all: every step keeps its gradient and saves its state.
    """

    keeps: bool
    reuses: bool
    on_the_spot: bool
    stores_all: bool

    def allow(self, other: Features) -> bool:
        """Whether a loop with these features can run a plan with those."""
        mays = ("keeps", "reuses", "on_the_spot")
        missing = any(getattr(other, name) and not getattr(self, name) for name in mays)
        return not missing and (other.stores_all or not self.stores_all)


ANY = Features(keeps=True, reuses=True, on_the_spot=True, stores_all=False)
STORES_ALL = Features(keeps=True, reuses=False, on_the_spot=False, stores_all=True)


@dataclasses.dataclass(frozen=True)
class LoopTables:
    """The tables of one plan, int32.

    Attributes:
      walks: [W], and one entry more for `walk_run` and `walk_segment`, by name.
      runs: [R], by name.
      segments: `vjp_state` and `vjp_gradient`, [T + 1]; the first entry stands for none.
      gradients: whether the step has inner gradients.
    """

    walks: Columns
    runs: Columns
    segments: Columns
    gradients: bool

    @property
    def features(self) -> Features:
        runs = self.runs
        saves = (runs["run_save"] >= 0) & ((runs["run_stride"] == 1) | (runs["run_steps"] == 1))
        return Features(
            keeps=bool(np.any(runs["run_keep"] >= 0)),
            reuses=bool(np.any(runs["run_reuse"] >= 0)),
            on_the_spot=not np.all(runs["run_update"]),
            stores_all=bool(
                np.all(saves) and (np.all(runs["run_keep"] >= 0) or not self.gradients)
            ),
        )

    def names_behind(self, plan: Plan) -> tuple[bool, bool]:
        """Whether the slot behind the plan's slots is named: of states, and of gradients.

        A plan whose VJPs find their gradients in slots of its own names none, and the slot would
        take a gradient's memory for nothing.
        """
        runs, last = self.runs, self.runs["run_steps"] - 1
        # The last slot that a run writes; -1 for none. The first entry of the segments' tables
        # stands for no VJP.
        saved = np.where(runs["run_save"] < 0, -1, runs["run_save"] + runs["run_stride"] * last)
        kept = np.where(runs["run_keep"] < 0, -1, runs["run_keep"] + last)
        states, gradients = (
            max(written.max(initial=-1), self.segments[name][1:].max(initial=-1))
            for written, name in ((saved, "vjp_state"), (kept, "vjp_gradient"))
        )
        return bool(states >= plan.state_slots), bool(gradients >= plan.gradient_slots)

    @property
    def columns(self) -> Columns:
        """All tables, by name."""
        return self.walks | self.runs | self.segments


def loop_tables(
    plan: Plan,
    *,
    gradients: bool,
    state_slots: int | None = None,
    gradient_slots: int | None = None,
) -> LoopTables:
    """The tables of a plan.

    Args:
      plan: the schedule's plan.
      gradients: whether the step has inner gradients; without them none is taken for a VJP.
      state_slots, gradient_slots: the slots that there are; as many as the plan has if not given.
    """
    state_behind = plan.state_slots if state_slots is None else state_slots
    gradient_behind = plan.gradient_slots if gradient_slots is None else gradient_slots
    segments = plan.steps + 1
    lengths = np.diff(plan.segment)
    owner = np.repeat(np.arange(segments), lengths)
    advanced = np.bincount(owner, weights=plan.run_steps, minlength=segments).astype(np.int64)
    start = plan.steps - np.arange(segments) - advanced
    start[0] = plan.steps - advanced[0]
    # Segments but the first that run something end in the state of a VJP.
    ends = plan.segment[2:][lengths[1:] > 0] - 1
    save = plan.run_save.copy()
    save[ends] = np.where(save[ends] < 0, state_behind, save[ends])
    vjp_state = plan.load.copy()
    vjp_state[1:][lengths[1:] > 0] = save[ends]
    if np.count_nonzero(save < 0) == 1 and plan.run_steps[save < 0] == 1:
        # The last state of training, where all others are saved: saved in vain, it needs no
        # decision at each step.
        save[save < 0] = state_behind
    vjp_gradient = np.where(plan.gradient < 0, gradient_behind, plan.gradient)
    runs = {
        "run_steps": plan.run_steps,
        "run_save": save,
        "run_stride": np.zeros_like(plan.run_steps),
        "run_keep": plan.run_keep,
        "run_reuse": plan.run_reuse,
        "run_update": np.ones_like(plan.run_steps),
    }
    bounds = plan.segment.astype(np.int64)
    spots = np.flatnonzero(plan.gradient[1:] < 0) + 1 if gradients else np.empty(0, np.int64)
    if len(spots):
        only_gradient = {
            "run_steps": 1,
            "run_save": -1,
            "run_stride": 0,
            "run_keep": gradient_behind,
            "run_reuse": -1,
            "run_update": 0,
        }
        runs = {
            name: np.insert(values, bounds[spots + 1], only_gradient[name])
            for name, values in runs.items()
        }
        bounds = bounds + np.searchsorted(spots, np.arange(segments + 1))
    runs, bounds = _with_strides(runs, bounds)
    begins_walk = np.diff(bounds) > 0
    begins_walk[:2] = True
    first = np.flatnonzero(begins_walk)
    walks = {
        "walk_load": plan.load[first],
        "walk_start": start[first],
        "walk_run": np.append(bounds[first], bounds[-1]),
        "walk_segment": np.append(first, segments),
    }
    of_segments = {"vjp_state": vjp_state, "vjp_gradient": vjp_gradient}
    return LoopTables(_int32(walks), _int32(runs), _int32(of_segments), gradients)


def _with_strides(runs: Columns, bounds: np.ndarray) -> tuple[Columns, np.ndarray]:
    """Runs of one step whose slots follow one another become one run, which saves every state."""
    save, keep = runs["run_save"], runs["run_keep"]
    follows = np.zeros(len(save), bool)
    follows[1:] = (
        (runs["run_steps"][1:] == 1)
        & (runs["run_steps"][:-1] == 1)
        & (save[:-1] >= 0)
        & (save[1:] == save[:-1] + 1)
        & (runs["run_reuse"][1:] < 0)
        & (runs["run_reuse"][:-1] < 0)
        & np.where(keep[:-1] < 0, keep[1:] < 0, keep[1:] == keep[:-1] + 1)
    )
    follows[bounds[bounds < len(follows)]] = False
    first = np.flatnonzero(~follows)
    counts = np.diff(np.append(first, len(follows)))
    merged = {name: values[first] for name, values in runs.items()}
    merged["run_steps"] = np.where(counts > 1, counts, merged["run_steps"])
    merged["run_stride"] = (counts > 1).astype(np.int32)
    return merged, np.searchsorted(first, bounds)


def _int32(columns: Columns) -> Columns:
    return {name: np.asarray(values, np.int32) for name, values in columns.items()}
