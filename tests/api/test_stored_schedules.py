"""Schedules in an exported file: read back as they were written, or refused."""

import json

import pytest
from exported_stream import WEIGHTS

import metagrad
from metagrad.api import stored_schedule
from metagrad.runtime.exported.fields import Fields
from metagrad.runtime.schedules.auto import Tree


@pytest.mark.parametrize(
    "schedule",
    [
        metagrad.StoreAll(),
        metagrad.StoreAll(keep_gradients=False),
        Tree(3, 2, WEIGHTS),
        metagrad.Binomial(3, rebuild=2),
        metagrad.LazyKary(3),
        metagrad.Periodic(4, keep_gradients=False),
    ],
    ids=str,
)
def test_schedules(schedule):
    stored = json.loads(json.dumps(stored_schedule.to_json(schedule)))
    assert stored_schedule.from_json(Fields(stored, "schedule")) == schedule


@pytest.mark.parametrize(
    "schedule, message",
    [
        ({"class": "Auto"}, "class is 'Auto', which is not one of"),
        ({"class": "os.system"}, "which is not one of"),
        ({"class": "Binomial", "slots": 2}, "has not the arguments of Binomial"),
        ({"class": "Periodic", "every": 0, "keep_gradients": True, "rebuild": 1}, "at least 1"),
        ({"class": "Periodic", "every": "2", "keep_gradients": True, "rebuild": 1}, "be an int"),
        ({"class": "StoreAll", "keep_gradients": 1}, "must be True or False"),
        *(
            (
                {"class": "Tree", "state_slots": 2, "gradient_slots": 1, "weights": weights},
                "are not four numbers of seconds",
            )
            for weights in ([1, 1, 1], [1, 1, 1, -1], [1, 1, 1, 1e300], [1, 1, 1, True])
        ),
    ],
)
def test_schedules_that_are_none(schedule, message):
    with pytest.raises((ValueError, TypeError), match=message):
        stored_schedule.from_json(Fields(schedule, "schedule"))
