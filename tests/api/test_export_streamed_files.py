"""Files of streamed runs that were altered are refused; nothing of them runs."""

import contextlib

import pytest
from altered_manifests import JSON, places, set_at, trusted
from exported_stream import STEPS, WEIGHTS, exported, metagradient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import metagrad
from metagrad.runtime.exported import artifacts, container
from metagrad.runtime.exported.container import InvalidFile
from metagrad.runtime.schedules.auto import Tree

pytestmark = pytest.mark.usefixtures("double")


@pytest.fixture(scope="module")
def good(double, tmp_path_factory):
    """A file for one platform."""
    path = tmp_path_factory.mktemp("good") / "run"
    exported(path, metagradient(ad="jax"), length=6, within=Tree(2, 1, WEIGHTS))
    return path


@pytest.fixture
def altered(good, tmp_path):
    """Writes the good file anew, with contents and payloads changed and all sums right."""

    def write(change=lambda contents: None, payloads=lambda old: {}):
        file = container.read(good)
        change(file.contents)
        new = {name: bytes(data) for name, data in file.payloads.items()}
        container.write(tmp_path / "run", file.contents, new | payloads(new), overwrite=True)
        return tmp_path / "run"

    return write


STREAMED, SEGMENT = ("streamed",), ("streamed", "segment")
LAYOUT = ("streamed", "layout")


@pytest.mark.parametrize(
    "place, value, message",
    [
        (STREAMED, 1, "streamed is not a JSON object"),
        ((*STREAMED, "steps"), 0, "steps is 0, below 1"),
        ((*STREAMED, "steps"), 2**40, "steps is 1099511627776, above"),
        ((*STREAMED, "steps"), 100, "100 steps in segments of 6, and the plans of segments are of"),
        ((*STREAMED, "steps"), 5, "5 steps in segments of 6, and the plans"),
        ((*STREAMED, "steps"), STEPS + 6, "the outer plan is of 2 segments"),
        ((*STREAMED, "tiers"), ["host"], "2 slots, but 1 tiers"),
        ((*STREAMED, "tiers"), ["host", "tape"], "others than device, host, disk"),
        ((*STREAMED, "sizes", "state"), -1, "state is -1, below 0"),
        ((*STREAMED, "sizes", "batch"), 2**70, "above"),
        ((*STREAMED, "sizes", "batch"), 1.5, "batch is not an integer"),
        (
            (*SEGMENT, "steps"),
            7,
            "8 steps in segments of 7, and the plans of segments are of 6 and",
        ),
        ((*SEGMENT, "steps"), 2**40, "8 steps in segments of 1099511627776, and the plans"),
        ((*SEGMENT, "plans", "whole", "steps"), 7, "the plan's tables have"),
        ((*SEGMENT, "plans", "last", "runs"), 2**40, "the plan's tables have"),
        ((*SEGMENT, "plans", "last", "state_slots"), 1, "is wrong"),
        ((*SEGMENT, "plans"), {}, "plans has no 'whole'"),
        ((*SEGMENT, "state_slots"), 0, "state_slots is 0, below 1"),
        ((*SEGMENT, "state_slots"), 1, "too many slots"),
        ((*SEGMENT, "state_slots"), 9, "state_slots is 9, above 7"),
        ((*SEGMENT, "gradient_slots"), 7, "gradient_slots is 7, above 6"),
        ((*SEGMENT, "has_gradients"), None, "has_gradients is not true or false"),
        ((*SEGMENT, "checksums"), True, "does not give the results"),
        ((*SEGMENT, "features", "keeps"), False, "in a kernel with Features"),
        ((*SEGMENT, "features", "stores_all"), True, "in a kernel with Features"),
        ((*SEGMENT, "schedule", "class"), "Mine", "class is 'Mine', which is not one of"),
        ((*SEGMENT, "schedule", "weights"), [1, 1, 1, 1e300], "not four numbers"),
        ((*LAYOUT, "changed"), [0, 0], "changed is not a list of leaves in order"),
        ((*LAYOUT, "changed"), [99], "changed is not a list of leaves"),
        ((*LAYOUT, "changed"), [], "stored is not a list of leaves"),
        ((*LAYOUT, "state_bar"), [0], "state_bar is not a list of leaves"),
        ((*LAYOUT, "meta_bar"), [0], "does not give the results|does not take the arguments"),
        ((*LAYOUT, "batch_bar"), [], "does not give the results"),
        (("plan", "steps"), 3, "the plan's tables have"),
        (("plan", "gradient_slots"), 1, "with 1 gradient slots"),
        (("wrt",), ["everything"], "with respect to"),
        (("programs",), {}, "no program 'outer_vjp'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_manifest_with_right_sums(altered, monkeypatch, place, value, message):
    monkeypatch.setattr(artifacts, "examine", trusted)
    change = (
        (lambda contents: contents.update(streamed=value))
        if place == STREAMED
        else set_at(place, value)
    )
    with pytest.raises(InvalidFile, match=message):
        metagrad.load(altered(change))


def test_the_altered_files_are_good_but_for_that(altered, monkeypatch):
    monkeypatch.setattr(artifacts, "examine", trusted)
    metagrad.load(altered()).explain()


@pytest.mark.parametrize("name", ["steps", "tiers", "sizes", "layout", "segment"])
def test_a_part_that_is_missing(altered, monkeypatch, name):
    monkeypatch.setattr(artifacts, "examine", trusted)
    with pytest.raises(InvalidFile, match=f"streamed has no '{name}'"):
        metagrad.load(altered(lambda contents: contents["streamed"].pop(name)))


def test_a_program_in_the_place_of_another(altered):
    swapped = lambda old: {"programs/advance/cpu": old["programs/reverse/cpu"]}
    with pytest.raises(InvalidFile, match="its program advance/cpu is not what it says"):
        metagrad.load(altered(payloads=swapped))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(data=st.data())
def test_any_manifest_with_right_sums(altered, data):
    """It loads or is refused; no other error comes out."""

    def change(contents):
        everywhere = list(places({"streamed": contents["streamed"], "plan": contents["plan"]}))
        for _ in range(data.draw(st.integers(1, 2))):
            place, value = data.draw(st.sampled_from(everywhere)), data.draw(JSON)
            # The first change may have taken the place of the second one away.
            with contextlib.suppress(KeyError, IndexError, TypeError):
                set_at(place, value)(contents)

    path = altered(change)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "examine", trusted)
        with contextlib.suppress(InvalidFile):
            metagrad.load(path).explain()
