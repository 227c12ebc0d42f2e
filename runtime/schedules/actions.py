"""Schedules of the `checkpoint_schedules` package as plans.

D. I. Dolci et al., "checkpoint_schedules: schedules for incremental checkpointing of adjoint
simulations", JOSS 9(95), 2024. There a schedule is a stream of actions. What they mean here:

    Forward(n0, n1, ics, adj, storage)   advance from s_{n0} to s_{n1}; `ics`: hold s_{n0};
                                         `adj`: hold s_t and G_t of each of these steps
    Copy, Move (n, from, to)             the data of step n; to WORK: the run stands at s_n
                                         again, or the VJPs find their data
    Reverse(n1, n0)                      the VJPs at t = n1 - 1 .. n0
    EndForward, EndReverse               s_T is reached; the end

RAM, DISK and WORK are all state slots, and a state that is stored twice is held once. The actions
first become segments that name the states and gradients they hold; those that are read again then
get slots. Time: O(T), in Python.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

from metagrad.runtime.schedules.arguments import check_steps
from metagrad.runtime.schedules.plan import Plan
from metagrad.runtime.schedules.slots import Held, Run, Segment, tables


def is_checkpoint_schedule(schedule) -> bool:
    """Whether an object is a schedule of the `checkpoint_schedules` package.

    The package need not be installed.
    """
    return any(
        c.__name__ == "CheckpointSchedule"
        and c.__module__.partition(".")[0] == "checkpoint_schedules"
        for c in type(schedule).__mro__
    )


def from_checkpoint_schedules(schedule, keep_gradients: bool = True) -> ActionSchedule:
    """A schedule of ours from an object of the `checkpoint_schedules` package.

    Such objects are `Revolve(max_n, slots)`, `HRevolve`, `TwoLevelCheckpointSchedule`, and so on.

    Args:
      schedule: the object, not yet iterated over. It is copied for each plan, and stays as it is.
        Offline schedules carry their number of steps; online ones are told it when the run ends.
      keep_gradients: inner gradients are held beside the states that a VJP is to find.

    Raises:
      TypeError: `schedule` is not such an object.
      ValueError: it has been iterated over already.
    """
    if not is_checkpoint_schedule(schedule):
        raise TypeError(
            f"expected a schedule object of the checkpoint_schedules package, got {schedule!r}"
        )
    if hasattr(schedule, "iter"):
        raise ValueError(
            f"this {type(schedule).__name__} has been iterated over already; pass a new one"
        )
    return ActionSchedule(copy.deepcopy(schedule), keep_gradients)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ActionSchedule:
    """A schedule object of the `checkpoint_schedules` package, as one of ours."""

    schedule: Any
    keep_gradients: bool

    def plan(self, steps: int, *, gradients: bool) -> Plan:
        """The plan for a training run.

        Args:
          steps: the number of training steps.
          gradients: whether the step has inner gradients that can be kept.

        Raises:
          ValueError: the schedule is for another number of steps, or does something that a plan
              cannot express.
        """
        steps = check_steps(steps)
        max_n = self.schedule.max_n
        if max_n is not None and max_n != steps:
            raise ValueError(
                f"{self} was made for max_n={max_n} steps, but the training run has {steps}"
            )
        walk = _Walk(str(self), copy.deepcopy(self.schedule), steps)
        plan = Plan(
            **tables(steps, walk.segments(), keep=self.keep_gradients and gradients),
            schedule=str(self),
        )
        plan.validate()  # the actions come from elsewhere
        return plan

    def __repr__(self) -> str:
        return f"checkpoint_schedules.{type(self.schedule).__name__}"


@dataclasses.dataclass
class _Checkpoint:
    """The data of one step in one storage.

    Attributes:
      state: the state to restart from.
      adjoint: the (state, gradient) that the VJP of each of some steps needs, by step.
    """

    state: Held | None = None
    adjoint: dict[int, tuple[Held, Held]] = dataclasses.field(default_factory=dict)


class _Walk:
    """Reads the actions one by one. The run stands at s_`at`, reached from `start` by `runs`."""

    def __init__(self, name: str, schedule, steps: int):
        self.name, self.schedule, self.steps = name, schedule, steps
        self.initial = Held(0)
        self.stored: dict[tuple[Any, int], _Checkpoint] = {}
        self.adjoint: dict[int, tuple[Held, Held]] = {}  # in WORK, where VJPs look
        # At no state, where a segment has ended, `at` is None and nothing reads `start`.
        self.start: Any = self.initial
        self.runs: list[Run] = []
        self.at: Any = 0
        self.trained = False
        self.reversed = steps  # VJPs have been taken down to here

    def segments(self) -> list[Segment]:
        import checkpoint_schedules as package

        segments: list[Segment] = []
        for action in self.schedule:
            match action:
                case package.Forward():
                    self.forward(action, package.StorageType.WORK)
                case package.Copy() | package.Move():
                    self.transfer(action, package)
                case package.EndForward():
                    segments.append(self.end_of_training())
                case package.Reverse():
                    segments.extend(self.reverse(action))
                case package.EndReverse():
                    break
                case _:
                    raise self.cannot(action, "is not an action that a plan knows")
        if self.reversed > 0:
            raise ValueError(
                f"{self.name} ends before the steps {self.reversed - 1} .. 0 have been reversed"
            )
        return segments

    def forward(self, action, work) -> None:
        first, last = action.n0, min(action.n1, self.steps)
        if self.at != first:
            where = "at no state" if self.at is None else f"at s_{self.at}"
            raise self.cannot(action, f"starts at s_{first}, but the run stands {where}")
        if last <= first:
            raise self.cannot(action, f"does not advance; the training run has {self.steps} steps")
        checkpoint = _Checkpoint()
        if action.write_ics:
            checkpoint.state = self.hold()
        if action.write_adj_deps:
            for t in range(first, last):
                checkpoint.adjoint[t] = (self.hold(), Held(t))
                self.runs.append(Run(1, keep=checkpoint.adjoint[t][1]))
                self.at = t + 1
        else:
            self.runs.append(Run(last - first))
            self.at = last
        if action.storage == work:
            self.adjoint |= checkpoint.adjoint
        if action.storage != work or checkpoint.state:
            self.stored[action.storage, first] = checkpoint
        if self.at == self.steps and self.schedule.max_n is None:
            self.schedule.finalize(self.steps)

    def hold(self) -> Held:
        """Holds the state at which the run stands.

        That is the state that the run started from, or the one that its last run saves.
        """
        if not self.runs:
            return self.start
        if self.runs[-1].save is None:
            self.runs[-1].save = Held(self.at)
        return self.runs[-1].save

    def transfer(self, action, package) -> None:
        source = (action.from_storage, action.n)
        if source not in self.stored:
            raise self.cannot(action, f"finds nothing of step {action.n} there")
        checkpoint = self.stored[source]
        if isinstance(action, package.Move):
            del self.stored[source]
        if action.to_storage == package.StorageType.NONE:
            return
        if action.to_storage != package.StorageType.WORK:
            self.stored[action.to_storage, action.n] = checkpoint
            return
        if not self.trained or self.runs:
            raise self.cannot(
                action, "leaves a run that has not ended in a VJP; a plan loads one state per VJP"
            )
        self.adjoint |= checkpoint.adjoint
        self.start, self.at = checkpoint.state, action.n if checkpoint.state else None

    def end_of_training(self) -> Segment:
        if self.at != self.steps:
            raise ValueError(
                f"{self.name} ends the training run at s_{self.at}, but it has {self.steps} steps"
            )
        segment = Segment(self.start, self.runs, None)
        self.runs, self.at, self.trained = [], None, True
        return segment

    def reverse(self, action) -> Iterator[Segment]:
        if not self.trained:
            raise self.cannot(action, "comes before EndForward")
        for t in range(action.n1 - 1, action.n0 - 1, -1):
            if t != self.reversed - 1:
                raise self.cannot(
                    action,
                    f"takes the VJP at step {t}, but the next one is at step {self.reversed - 1}",
                )
            if t not in self.adjoint:
                raise self.cannot(action, f"finds no data for the VJP at step {t} in WORK")
            state, gradient = self.adjoint[t]
            if self.runs:
                # The last run is step t itself. It is left out, since the VJP takes the state
                # before it and computes its gradient.
                if self.runs[-1].keep is not gradient:
                    raise self.cannot(
                        action,
                        f"takes the VJP at step {t}, but the run stands at s_{self.at}; "
                        "a plan's runs end where the VJP is taken",
                    )
                yield Segment(self.start, self.runs[:-1], None)
            else:
                yield Segment(state, [], gradient)
            if action.clear_adj_deps:
                del self.adjoint[t]
            self.reversed, self.runs, self.at = t, [], None

    def cannot(self, action, why: str) -> ValueError:
        return ValueError(f"{self.name}: {action!r} {why}")
