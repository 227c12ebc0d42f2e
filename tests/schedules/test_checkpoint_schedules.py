"""Schedules of the `checkpoint_schedules` package become plans.

Our binomial plans take as many advances as its Revolve.
"""

import oracle
import pytest

from metagrad.runtime.schedules import Binomial, as_schedule, from_checkpoint_schedules

cs = pytest.importorskip("checkpoint_schedules")
pytestmark = pytest.mark.filterwarnings("ignore:Numba not available")


def advances(schedule):
    """(steps run forward, steps run for the VJP of the step) by an offline schedule's actions."""
    plain = adjoint = 0
    for action in schedule:
        if isinstance(action, cs.Forward):
            if action.write_adj_deps:
                adjoint += action.n1 - action.n0
            else:
                plain += action.n1 - action.n0
        if isinstance(action, cs.EndReverse):
            break
    return plain, adjoint


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 6, 9])
def test_binomial_counts_equal_those_of_revolve(slots):
    """Revolve reverses T + 1 steps: our T and the outer function.

    The VJP of each of its steps runs that step once more, and ours takes G_t.
    """
    for T in (2, 3, 4, 5, 7, 10, 16, 23, 31, 40):
        plain, adjoint = advances(cs.Revolve(T + 1, min(slots, T)))
        plan = Binomial(slots, keep_gradients=False).plan(T, gradients=True)
        assert plan.advances == plain, (T, slots)
        assert plan.gradients_on_the_spot == adjoint - 1
        assert plain == cs.optimal_steps_binomial(T + 1, min(slots, T)) - (T + 1)
        assert Binomial(slots).plan(T, gradients=True).advances == plain


OFFLINE = {
    "Revolve": lambda n: cs.Revolve(n, 3),
    "Revolve, one slot": lambda n: cs.Revolve(n, 1),
    "DiskRevolve": lambda n: cs.DiskRevolve(n, 2),
    "PeriodicDiskRevolve": lambda n: cs.PeriodicDiskRevolve(n, 2),
    "HRevolve": lambda n: cs.HRevolve(n, 2, 2),
    "Multistage": lambda n: cs.MultistageCheckpointSchedule(n, 2, 1),
    "Multistage, revolve": lambda n: cs.MultistageCheckpointSchedule(n, 0, 3, trajectory="revolve"),
    "Mixed": lambda n: cs.MixedCheckpointSchedule(n, 3),
    "Mixed, one slot": lambda n: cs.MixedCheckpointSchedule(n, 1),
}
ONLINE = {
    "SingleMemory": lambda: cs.SingleMemoryStorageSchedule(),
    "SingleDisk": lambda: cs.SingleDiskStorageSchedule(),
    "SingleDisk, moved": lambda: cs.SingleDiskStorageSchedule(move_data=True),
    "TwoLevel": lambda: cs.TwoLevelCheckpointSchedule(4, 2),
    "TwoLevel in memory": lambda: cs.TwoLevelCheckpointSchedule(
        5, 1, binomial_storage=cs.StorageType.RAM
    ),
}


def check(schedule, T):
    for gradients in (True, False):
        plan = schedule.plan(T, gradients=gradients)
        run = oracle.run(plan)
        assert (run.advances, run.updates, run.on_the_spot) == (
            plan.advances,
            plan.updates,
            plan.gradients_on_the_spot,
        )
        assert run.state_peak == plan.state_slots and run.gradient_peak == plan.gradient_slots
        assert gradients or plan.gradient_slots == 0


@pytest.mark.parametrize("name", OFFLINE)
def test_offline_schedules(name):
    for T in (2, 3, 4, 5, 8, 13, 24, 40):
        check(as_schedule(OFFLINE[name](T)), T)


@pytest.mark.parametrize("name", ONLINE)
def test_online_schedules_are_told_the_end(name):
    schedule = as_schedule(ONLINE[name]())
    for T in (1, 2, 3, 4, 5, 8, 13, 24, 40):  # one object, any number of steps
        check(schedule, T)


def test_advances_are_those_of_the_actions():
    """The actions run T steps for the training run and, for each VJP but the first, its step.

    A plan takes only the gradient of that step.
    """
    for T in (5, 12, 30):
        plain, adjoint = advances(cs.Revolve(T, 3))
        assert adjoint == T
        plan = from_checkpoint_schedules(cs.Revolve(T, 3)).plan(T, gradients=True)
        # One more: the last step of the training run, whose gradient is kept.
        assert plan.advances == plain + 1
        assert plan.gradients_on_the_spot == T - 1
        assert plan.state_slots <= 3 + 1  # and the working storage


def test_a_state_in_two_storages_takes_one_slot():
    assert as_schedule(cs.SingleDiskStorageSchedule()).plan(9, gradients=True).state_slots == 9
    assert as_schedule(cs.SingleMemoryStorageSchedule()).plan(9, gradients=True).advances == 9


def test_gradients_beside_the_states_of_adjoint_data():
    plan = as_schedule(cs.MixedCheckpointSchedule(12, 6)).plan(12, gradients=True)
    assert plan.gradient_slots > 0 and plan.gradients_on_the_spot < 12
    bare = from_checkpoint_schedules(cs.MixedCheckpointSchedule(12, 6), keep_gradients=False).plan(
        12, gradients=True
    )
    assert bare.gradient_slots == 0 and bare.advances == plan.advances


def test_the_number_of_steps_must_be_that_of_the_schedule():
    with pytest.raises(
        ValueError,
        match=r"checkpoint_schedules\.Revolve was made for max_n=10 steps, "
        "but the training run has 12",
    ):
        as_schedule(cs.Revolve(10, 3)).plan(12, gradients=True)


def test_a_schedule_that_reverses_nothing():
    with pytest.raises(
        ValueError,
        match=r"NoneCheckpointSchedule ends before the steps 4 \.\. 0 have been reversed",
    ):
        as_schedule(cs.NoneCheckpointSchedule()).plan(5, gradients=True)


def test_a_schedule_that_has_been_used():
    used = cs.Revolve(10, 3)
    next(used)
    with pytest.raises(
        ValueError, match="this Revolve has been iterated over already; pass a new one"
    ):
        as_schedule(used)


def test_another_object():
    with pytest.raises(
        TypeError, match="expected a schedule object of the checkpoint_schedules package, got 3"
    ):
        from_checkpoint_schedules(3)


RAM, WORK, NONE = cs.StorageType.RAM, cs.StorageType.WORK, cs.StorageType.NONE


class Listed(cs.CheckpointSchedule):
    """A schedule of one's own: a list of actions for three steps."""

    def __init__(self, *actions):
        super().__init__(3)
        self.actions = actions

    def _iterator(self):
        yield from self.actions

    def uses_storage_type(self, storage_type):
        return True

    @property
    def is_exhausted(self):
        return False


TRAINING = (
    cs.Forward(0, 2, True, False, RAM),
    cs.Forward(2, 3, False, True, WORK),
    cs.EndForward(),
    cs.Reverse(3, 2, True),
)
END = (
    cs.Copy(0, RAM, WORK),
    cs.Forward(0, 1, False, True, WORK),
    cs.Reverse(1, 0, True),
    cs.EndReverse(),
)


def test_a_schedule_of_one_s_own():
    middle = (
        cs.Copy(0, RAM, WORK),
        cs.Forward(0, 1, False, False, NONE),
        cs.Forward(1, 2, False, True, WORK),
        cs.Reverse(2, 1, True),
    )
    check(as_schedule(Listed(*TRAINING, *middle, *END)), 3)


@pytest.mark.parametrize(
    "actions, message",
    [
        (
            (cs.Forward(1, 2, True, False, RAM),),
            r"Forward\(1, 2, .* starts at s_1, but the run stands at s_0",
        ),
        (
            (cs.Forward(0, 2, True, False, RAM), cs.EndForward()),
            "ends the training run at s_2, but it has 3 steps",
        ),
        (
            (cs.Forward(0, 3, True, False, RAM), cs.Reverse(3, 2, True)),
            r"Reverse\(3, 2, True\) comes before EndForward",
        ),
        (
            (cs.Forward(0, 3, True, False, RAM), cs.Forward(3, 4, True, False, RAM)),
            "does not advance; the training run has 3 steps",
        ),
        (
            (cs.Forward(0, 3, True, False, RAM), cs.EndForward(), cs.Reverse(3, 2, True)),
            "finds no data for the VJP at step 2 in WORK",
        ),
        (
            (*TRAINING, cs.Reverse(1, 0, True)),
            "takes the VJP at step 0, but the next one is at step 1",
        ),
        ((*TRAINING, cs.Copy(1, RAM, WORK)), "finds nothing of step 1 there"),
        (
            (*TRAINING, cs.Forward(0, 1, False, True, WORK)),
            "starts at s_0, but the run stands at no state",
        ),
        (
            (
                *TRAINING,
                cs.Copy(0, RAM, WORK),
                cs.Forward(0, 1, False, False, NONE),
                cs.Copy(0, RAM, WORK),
            ),
            "leaves a run that has not ended in a VJP; a plan loads one state per VJP",
        ),
        (
            (
                *TRAINING,
                cs.Copy(0, RAM, WORK),
                cs.Forward(0, 2, False, True, WORK),
                cs.Forward(2, 3, False, False, NONE),
                cs.Reverse(2, 1, True),
            ),
            "takes the VJP at step 1, but the run stands at s_3; "
            "a plan's runs end where the VJP is taken",
        ),
        ((*TRAINING, "go on"), "'go on' is not an action that a plan knows"),
    ],
)
def test_what_cannot_be_mapped(actions, message):
    with pytest.raises(ValueError, match=f"^checkpoint_schedules.Listed.*{message}"):
        as_schedule(Listed(*actions)).plan(3, gradients=True)
