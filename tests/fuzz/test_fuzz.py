"""The fuzzer's own tests, and a bounded run of it: a fixed seed, so that a failure is the fault of
a change.
"""

import json

import jax
import pytest

from . import captured, findings, generate, libraries, low_precision, source, surroundings, training
from .control import STRUCTURED
from .shrink import shrink
from .worker import Worker

SEED = 7
"""Of the programs that every run of the tests compares.

`python -m tests.fuzz --seed 7 --program K` is program K.
"""

CHUNKS, EACH = 6, 7


@pytest.fixture(scope="module")
def worker():
    worker = Worker()
    yield worker
    worker.stop()


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_programs(worker, chunk):
    failed = []
    for number in range(chunk * EACH, (chunk + 1) * EACH):
        program = worker.generate(SEED, number)
        report = worker.compare(program)
        if report["class"] in findings.FAILURES:
            failed.append(
                f"python -m tests.fuzz --seed {SEED} --program {number}: {report['class']}: "
                f"{report['detail']}\n{source.render(program)}"
            )
    assert not failed, "\n".join(failed)


def test_a_seed_gives_the_same_programs(worker):
    first = [worker.generate(3, number) for number in (5, 0)]
    assert first == [json.loads(json.dumps(generate.program(3, number))) for number in (5, 0)]
    assert first[0] != first[1] and first[0] != worker.generate(4, 5)


# --- A planted bug is found, and made small


def tanh_is_its_argument():
    """Plants a derivative: that of tanh is 1 at first and second order."""
    from jax.extend.core import primitives

    from metagrad.frontend import capabilities
    from metagrad.frontend.exact_lowerings.value_and_derivative import attach, value

    wrong = lambda x, **parameters: attach(value(primitives.tanh_p, x, **parameters), x)
    capabilities.CAPABILITIES[primitives.tanh_p] = capabilities.Capability(lowering=wrong)


def dies():
    """Plants a death of the process at the first lowering."""
    import os

    from metagrad.api import metagradient

    metagradient.Metagradient.lower = lambda *_: os._exit(3)


def hangs():
    """Plants a lowering that does not end."""
    import time

    from metagrad.api import metagradient

    metagradient.Metagradient.lower = lambda *_: time.sleep(1000)


def leaf(name, *shape, kind="normal"):
    return {"name": name, "kind": kind, "seed": 1, "shape": list(shape)}


def node(name, op, *args, bodies=(), **attrs):
    return {"name": name, "op": op, "args": list(args), "attrs": attrs, "bodies": list(bodies)}


PROGRAM = {
    "seed": [0, 0],
    "params": [leaf("p0", 2, 3), leaf("p1", 3)],
    "meta": [leaf("m0")],
    "batch": [leaf("b0", 2, 3)],
    "outer_args": [leaf("o0", 3)],
    "trees": {"params": "dict", "meta": "list", "batch": "nested", "state": "named"},
    "loss": {
        "nodes": [
            node("v1", "{0} * {1}", "p0", "b0"),
            node("v2", "jnp.tanh({0})", "v1"),
            node("v3", "{0} + {1}", "v2", "p1"),
            node("v4", "{0} * {1}", "v3", "m0"),
        ],
        "out": ["v4"],
    },
    "outer": {
        "nodes": [node("v5", "{0} * {1}", "p1", "o0"), node("v6", "jnp.square({0})", "p0")],
        "out": ["v5", "v6"],
    },
    "form": "two gradients",
    "grad": "metagrad",
    "inner_grad": "jax.grad",
    "optimiser": ["optax.trace(0.9)", "optax.scale(-0.05)"],
    "rate": None,
    "extras": ["flag"],
    "key": True,
    "step_aux": None,
    "outer_aux": False,
    "outer_of": "params",
    "wrt": ["meta", "state"],
    "single": False,
    "schedule": "metagrad.LazyKary(2, True)",
    "steps": 3,
    "update": "added",
    "closure": False,
    "reads": [],
    "called": {},
    "again": None,
    "around": False,
}
"""A program with a tanh in its loss, and much that has nothing to do with it."""


def test_a_planted_wrong_derivative_is_found_and_made_small():
    planted = Worker(setup=".test_fuzz:tanh_is_its_argument")
    try:
        assert planted.compare(PROGRAM)["class"] == "wrong"
        small, tried = shrink(
            PROGRAM, lambda program: planted.compare(program)["class"] == "wrong", seconds=60
        )
        operations = [operation["op"] for operation in small["loss"]["nodes"]]
        assert operations.count("jnp.tanh({0})") == 1
        assert (
            len(small["loss"]["nodes"]) <= 2
            and small["outer"]["nodes"] == []
            and small["optimiser"] == []
            and small["steps"] == 1
            and small["extras"] == []
        )
        assert tried < 150
    finally:
        planted.stop()


def test_the_same_program_agrees_without_it(worker):
    assert worker.compare(PROGRAM)["class"] == "agree"


def test_a_death_is_a_finding_and_not_the_end():
    planted = Worker(setup=".test_fuzz:dies")
    try:
        for _ in range(2):
            report = planted.compare(PROGRAM)
            assert report["class"] == "died" and "exit code 3" in report["detail"]
    finally:
        planted.stop()


def test_a_hang_is_a_finding():
    planted = Worker(setup=".test_fuzz:hangs")
    try:
        # Once JAX is loaded, its part takes a second.
        planted.generate(0, 0)
        planted.limit = 15
        assert planted.compare(PROGRAM)["class"] == "hang"
    finally:
        planted.stop()


def numpy_raises():
    """Plants an error of a function in C that the frontend calls."""
    import numpy as np

    from metagrad.frontend.jaxprs import unchanged_leaves

    unchanged_leaves._literal = np.zeros((), jax.dtypes.float0).__eq__


def test_an_error_of_numpy_is_a_finding_and_no_refusal(worker):
    planted = Worker(setup=".test_fuzz:numpy_raises")
    try:
        report = planted.compare(PROGRAM)
        assert report["class"] == "crash" and "structured" in report["detail"]
    finally:
        planted.stop()
    alike = {"batch": [leaf("b0", 2), leaf("b1", 2)], "trees": PROGRAM["trees"] | {"batch": "list"}}
    report = worker.compare(PROGRAM | alike | {"loss": TINY["loss"]})
    assert report["class"] == "refused" and "batches is a list" in report["detail"]


# --- What is around a program


SMALL = PROGRAM | {
    "form": "plain",
    "steps": 2,
    "schedule": "None",
    "optimiser": [],
    "extras": [],
    "loss": {
        "nodes": [node("v1", "{0} * {1}", "p0", "b0"), node("v2", "noise", "v1", "key")],
        "out": ["v2"],
    },
}
TINY = SMALL | {
    "params": [leaf("p0", 2)],
    "outer_args": [],
    "trees": dict.fromkeys(PROGRAM["trees"], "tuple"),
    "loss": {"nodes": [node("v1", "{0} * {1}", "p0", "m0")], "out": ["v1"]},
    "outer": {"nodes": [], "out": ["p0"]},
    "key": False,
    "wrt": ["meta"],
}
AROUND = {
    "closure": True,
    "reads": [["loss", "jnp.mean(closed)"], ["step", "jnp.max(rows_of_jax)"]],
    "called": {"loss": "step_vjp", "step": "main", "outer": "inner"},
    "again": {
        "settings": {"jax_threefry_partitionable": False},
        "leaves": "as_numpy",
        "back": True,
    },
    "around": True,
}


def settings_are_forgotten():
    """Plants a key of compiled programs that does not hold JAX's settings."""
    from metagrad.runtime import jax_internals

    jax_internals.settings = lambda: ()


def captured_arrays_are_doubled():
    """Plants another value for what step, loss and outer function close over."""
    from metagrad.frontend.captured import Captured

    right = Captured.arrays_beside
    Captured.arrays_beside = lambda self, *where: [2 * a for a in right(self, *where)]


def test_all_that_can_be_around_a_program_at_once(worker):
    assert worker.compare(SMALL | AROUND)["class"] == "agree"


def of_kind(group, **kind):
    return {group: [TINY[group][0] | kind]}


@pytest.mark.parametrize(
    "leaves",
    [
        of_kind("params", dtype="float32") | of_kind("meta", python=True),
        of_kind("meta", dtype="float32"),
    ],
    ids=["an f32 value of a Python number", "an f64 value of an f32 leaf"],
)
def test_a_derivative_around_a_value_has_the_dtype_of_its_leaf(worker, leaves):
    program = TINY | leaves | {"around": True, "wrt": ["meta", "state"]}
    assert worker.compare(program)["class"] == "agree"


def test_a_program_of_other_settings_is_found_out():
    planted = Worker(setup=".test_fuzz:settings_are_forgotten")
    try:
        again = AROUND["again"] | {"leaves": None}
        report = planted.compare(SMALL | {"again": again})
        assert report["class"] == "wrong"
        assert "call 1, {'jax_threefry_partitionable': False}" in report["detail"]
        assert planted.compare(SMALL | {"again": again | {"settings": {}}})["class"] == "agree"
    finally:
        planted.stop()


def test_wrong_captured_values_are_found_and_made_small():
    planted = Worker(setup=".test_fuzz:captured_arrays_are_doubled")
    wrong = lambda program: planted.compare(program)["class"] == "wrong"
    try:
        assert wrong(TINY | {"reads": AROUND["reads"][1:]})
        assert wrong(TINY | {"closure": True, "reads": AROUND["reads"][:1]})
        assert not wrong(TINY | {"reads": AROUND["reads"][:1]}), "a constant"
        small, _ = shrink(TINY | AROUND | {"again": None, "around": False}, wrong, seconds=60)
        assert len(small["reads"]) == 1
        assert not small["called"]
    finally:
        planted.stop()


# --- Without comparing anything


@pytest.fixture(scope="module")
def sample():
    programs = [generate.program(11, number) for number in range(250)]
    used = {
        name
        for program in programs
        for name in (*source.operations(program["loss"]), *source.operations(program["outer"]))
    }
    return programs, used


def test_tables_are_captured_and_not_constants():
    from metagrad.frontend.captured import SMALL

    scope = {}
    with jax.enable_x64(True):
        exec("\n".join([source.IMPORTS, source.DATA, *captured.TABLES.values()]), scope)
    sizes = {name: scope[name].nbytes for name in captured.TABLES}
    assert sizes.pop("closed") <= SMALL < min(sizes.values())


@pytest.mark.xdist_group("fuzz sample")
def test_what_can_be_around_a_program_comes_up(sample):
    programs, used = sample
    features = {feature for program in programs for feature in surroundings.features(program)}
    assert features >= {"closure", "names", "derivative of the value"}
    assert features >= {f"read in the {place}" for place in surroundings.PLACES}
    assert features >= {f"update: {name}" for name in training.UPDATES}
    assert sum("=" in feature for feature in features) > len(surroundings.SETTINGS) / 2
    assert sum(name in features for name in surroundings.LEAVES) >= 4
    assert sum(f"state: {name}" in features for name in training.EXTRAS) > 20
    for group in (captured.CAPTURED, libraries.LAYERS, low_precision.PRODUCTS):
        assert len(used & {op.name for op in group}) > len(group) / 3


def test_what_jax_refuses_is_invalid(worker):
    ill_typed = PROGRAM | {"loss": {"nodes": [node("v1", "{0} @ {1}", "p0", "b0")], "out": ["v1"]}}
    assert worker.compare(ill_typed)["class"] == "invalid"


def test_shrinking_ends_where_nothing_smaller_fails():
    has_tanh = lambda program: any(
        operation["op"] == "jnp.tanh({0})" for operation in program["loss"]["nodes"]
    )
    small, _ = shrink(PROGRAM, has_tanh)
    assert [operation["op"] for operation in small["loss"]["nodes"]] == ["jnp.tanh({0})"]
    assert shrink(small, has_tanh)[0] == small


@pytest.mark.xdist_group("fuzz sample")
def test_every_operation_is_written_by_some_program(sample):
    """Of a sample: each group of operations, each kind of pytree and schedule, and most forms come
    up.
    """
    programs, used = sample
    assert len(used & set(STRUCTURED)) > len(STRUCTURED) / 3
    assert len(used) > 200
    assert {tree for program in programs for tree in program["trees"].values()} == set(source.TREES)
    assert len({program["form"] for program in programs}) > 0.7 * len(training.FORMS)
    assert {name for program in programs for name in program["wrt"]} == {"meta", "state", "batches"}
    assert {program["steps"] for program in programs} >= {1, 2, 3, 12}
