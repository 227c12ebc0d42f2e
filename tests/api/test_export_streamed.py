"""A streamed run in a file: written, loaded and called as what it was written from."""

import os
import pickle
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact.unrolled import assert_close
from exported_stream import (
    EVERYTHING,
    LENGTH,
    LONG,
    STEPS,
    WEIGHTS,
    Info,
    arguments,
    exported,
    metagradient,
    outer,
    step,
    vector,
)
from streamed import plans

import metagrad
from metagrad.runtime.schedules.auto import Tree

pytestmark = pytest.mark.usefixtures("double")


@pytest.fixture(scope="module")
def pair(double, tmp_path_factory):
    """The compiled metagradient in everything, and the loaded one, of one file."""
    path = tmp_path_factory.mktemp("exported") / "run.mg"
    return exported(path, metagradient(), platforms=("cpu", "cuda"))


@pytest.fixture(scope="module")
def run(pair):
    return pair[1]


@pytest.fixture(scope="module")
def path(run):
    return run.path


def assert_same(result, expected):
    """Bit for bit, with the same structure (but for the class of a named tuple)."""
    assert type(result) is type(expected)
    result, expected = (each._replace(aux=tuple(each.aux)) for each in (result, expected))
    assert jax.tree.structure(result) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(result), jax.tree.leaves(expected)):
        if not hasattr(other, "dtype"):
            assert one is other or one == other
            continue
        assert one.dtype == other.dtype
        if jnp.issubdtype(other.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(one, other)


# --- Results --------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [STEPS, 1, 3, 11])
def test_the_result_is_that_of_what_was_exported(pair, steps):
    compiled, run = pair
    state, meta, batches, target = arguments(steps)
    result = run(state, meta, batches, target)
    assert result.aux._fields == Info._fields and type(result.aux).__name__ == "Info"
    assert result.grad[1]["n"].dtype == jax.dtypes.float0
    assert_same(result, compiled(state, meta, batches, target))
    order = np.arange(steps)
    stream = metagrad.Stream(batches, order=order)
    assert_same(run(state, meta, stream, target), compiled(state, meta, stream, target))


def test_the_gradient_is_jaxs_of_the_unrolled_run(run, monkeypatch):
    monkeypatch.setattr(metagrad, "grad", jax.grad)
    state, meta, batches, target = arguments()

    def value(rate, w, x):
        new = {**state, "w": w}
        for t in range(STEPS):
            new, _ = step(new, {**meta, "rate": rate}, {"x": x[t], "one": batches["one"][t]})
        return outer(new, target)[0]

    expected = jax.grad(value, (0, 1, 2))(meta["rate"], state["w"], batches["x"])
    result = run(state, meta, batches, target)
    found = result.grad[0]["rate"], result.grad[1]["w"], result.grad[2]["x"]
    assert_close(found, expected, 1e-11)


@pytest.mark.parametrize("wrt", ["meta", "state", "batches"])
def test_one_gradient(tmp_path, wrt):
    compiled, run = exported(tmp_path / "run", metagradient(wrt=wrt, ad="jax"))
    assert_same(run(*arguments(5)), compiled(*arguments(5)))


@pytest.mark.parametrize("runtime", ["streamed", "fused"])
def test_a_vector_of_queries(tmp_path, runtime):
    mg = metagradient(vector)
    if runtime == "streamed":
        compiled, run = exported(tmp_path / "run", mg)
        assert_same(run(*arguments(4)), compiled(*arguments(4)))
    else:
        fused = metagrad.compile(step, has_aux=True).metagradient(vector, EVERYTHING, has_aux=True)
        compiled = fused.lower(*arguments()).compile()
        compiled.export(tmp_path / "run", platforms=("cpu",))
        run = metagrad.load(tmp_path / "run")
    result = run(*arguments())
    assert result.value[0].shape == (2,) and result.grad[2]["x"].shape == (2, STEPS, 2)
    assert_same(result, compiled(*arguments()))


@pytest.mark.parametrize("within", [Tree(2, 1, WEIGHTS), metagrad.Binomial(2)], ids=str)
def test_segments_that_are_run_again(tmp_path, within):
    compiled, run = exported(tmp_path / "run", metagradient(ad="jax"), length=6, within=within)
    for steps in (STEPS, 3, 11):
        assert_same(run(*arguments(steps)), compiled(*arguments(steps)))


def test_the_gradients_of_batches_go_to_a_folder(run, tmp_path):
    state, meta, batches, target = arguments()
    stream = metagrad.Stream(batches, gradients=tmp_path / "gradients")
    result = run(state, meta, stream, target)
    assert (tmp_path / "gradients" / "index.json").exists()
    expected = run(*arguments()).grad[2]["x"]
    np.testing.assert_array_equal(result.grad[2]["x"], expected)


def test_called_without_double_precision(run):
    expected = run(*arguments())
    with jax.enable_x64(False):
        assert_same(run(*arguments()), expected)


def test_a_schedule_of_the_users_between_segments(tmp_path):
    """Its plan is data in the file, and runs of other lengths have as many slots."""

    class Mine:
        def plan(self, steps, *, gradients):
            return metagrad.LazyKary(2, keep_gradients=False).plan(steps, gradients=gradients)

    compiled = metagradient(schedule=Mine(), ad="jax").lower(*arguments()).compile()
    compiled.export(tmp_path / "run", platforms=("cpu",))
    run = metagrad.load(tmp_path / "run")
    assert run.plan.outer == compiled.plan.outer
    assert_same(run(*arguments()), compiled(*arguments()))


# --- Options --------------------------------------------------------------------------------------


class Ends(Exception):
    """What a stream raises in the middle of a run."""


class Data:
    """Batches, of which none can be read after a while."""

    def __init__(self, most=10**9):
        self._batches, self._left = arguments(LONG)[2], most

    def __len__(self):
        return LONG

    def __getitem__(self, t):
        time.sleep(0.005)  # So that points are saved meanwhile.
        self._left -= 1
        if self._left < 0:
            raise Ends
        return {name: rows[t] for name, rows in self._batches.items()}


def cut_off(path, **options):
    """The run of a file that is cut off in its reversal."""
    state, meta, _, target = arguments()
    run = metagrad.load(path, save_every=0, **options)
    with pytest.raises(Ends):
        run(state, meta, metagrad.Stream(Data(most=LONG + 15)), target)
    return run


def test_a_run_that_was_cut_off_goes_on(run, path, tmp_path):
    state, meta, batches, target = arguments(LONG)
    expected = run(state, meta, batches, target)
    # Loaded again, it has the same options.
    resumed = pickle.loads(pickle.dumps(cut_off(path, resume_dir=tmp_path / "resume")))
    assert resumed._executable.options.resume_dir == tmp_path / "resume"
    reports = []
    resumed = metagrad.load(path, resume_dir=tmp_path / "resume", progress=reports.append)
    assert_same(resumed(state, meta, metagrad.Stream(Data()), target), expected)
    assert reports[0].advanced > 0


def test_a_run_of_another_file_does_not_go_on(path, tmp_path):
    state, meta, _, target = arguments()
    cut_off(path, resume_dir=tmp_path / "resume")
    exported(tmp_path / "other", metagradient(vector))
    other = metagrad.load(tmp_path / "other", resume_dir=tmp_path / "resume")
    with pytest.raises(metagrad.JournalError, match="the program"):
        other(state, meta, metagrad.Stream(Data()), target)


def test_progress_is_reported(path):
    reports = []
    metagrad.load(path, progress=reports.append)(*arguments())
    assert reports[-1].advanced == reports[-1].advances and reports[-1].reversed == STEPS


def test_replays_are_compared_as_exported(tmp_path, monkeypatch):
    compiled, run = exported(tmp_path / "run", metagradient(verify="replay"), slots=1)
    assert_same(run(*arguments()), compiled(*arguments()))
    read = metagrad.runtime.tiers.placed_slots.PlacedSlots.read
    spoilt = lambda slots, i: [x + 1 if x.dtype == float else x for x in read(slots, i)]
    monkeypatch.setattr("metagrad.runtime.tiers.placed_slots.PlacedSlots.read", spoilt)
    with pytest.raises(metagrad.ReplayError, match=r"state\['w'\] differs"):
        run(*arguments())


def test_what_is_not_finite(path):
    state, meta, batches, target = arguments()
    meta["rate"] = np.nan
    message = "a NaN or infinity in value.*a file does not hold the step"
    with pytest.warns(RuntimeWarning, match=message + r".*check_nans=False in load\(\)"):
        metagrad.load(path)(state, meta, batches, target)
    with pytest.raises(FloatingPointError, match=message):
        metagrad.load(path, check_nans=True)(state, meta, batches, target)
    metagrad.load(path, check_nans=False)(state, meta, batches, target)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"progress": "yes"}, ValueError, "progress='yes'"),
        ({"resume_dir": 3}, TypeError, "resume_dir must be a path"),
        ({"save_every": -1}, ValueError, "save_every=-1"),
    ],
)
def test_wrong_options(path, options, error, message):
    with pytest.raises(error, match=message):
        metagrad.load(path, **options)


def test_a_fused_run_takes_no_options(tmp_path):
    mg = metagrad.compile(lambda w, rate, x: w - rate * x).metagradient(jnp.sum)
    mg.lower(np.ones(2), 0.1, np.ones((3, 2))).compile().export(tmp_path / "run")
    with pytest.raises(ValueError, match=r"resume_dir='x' is for streamed runs, and .*fused"):
        metagrad.load(tmp_path / "run", resume_dir="x")


# --- Calls that do not fit ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "i, change, message",
    [
        (0, {"w": np.ones(3)}, r"state\['w'\] has shape \(3,\)"),
        (0, {"name": "adam"}, r"state\['name'\] is 'adam', .* exported for 'sgd'"),
        (0, {"w": "none"}, r"state\['w'\] is 'none', and this program was compiled for"),
        (0, {"more": 1.0}, r"state\['more'\] is not a leaf of what this program was exported for"),
        (1, {"rate": np.ones(2)}, r"meta\['rate'\] has shape \(2,\)"),
        (2, {"x": np.ones((5, 3)), "one": np.ones(5, np.int32)}, r"batches\['x'\] of a batch is"),
        (2, {"y": np.ones(STEPS)}, r"batches\['y'\] is not a leaf"),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit(run, i, change, message):
    given = list(arguments())
    given[i] = given[i] | change
    with pytest.raises(TypeError, match=message):
        run(*given)


def test_a_missing_leaf_and_a_traced_call(run):
    state, meta, batches, target = arguments()
    with pytest.raises(TypeError, match=r"batches has no leaf batches\['one'\]"):
        run(state, meta, {"x": batches["x"]}, target)
    with pytest.raises(TypeError, match=r"outer_args has no leaf outer_args\[0\]"):
        run(state, meta, batches)
    with pytest.raises(TypeError, match=r"call it outside of jax\.jit"):
        jax.jit(lambda target: run(state, meta, batches, target).value[0])(target)


# --- The file -------------------------------------------------------------------------------------


def test_the_plan_and_what_is_shown(pair, path, capsys):
    from metagrad.cli import main

    compiled, run = pair
    assert run.plan.outer == compiled.plan.outer and run.platforms == ("cpu", "cuda")
    assert run.plan.tier_of_slot == compiled.plan.tier_of_slot
    for count in range(1, LENGTH + 1):
        assert run.plan.segment_slots.plan(count) == compiled.plan.segment_slots.plan(count)
    assert run.plan.sizes == compiled.plan.sizes
    assert "through any number of steps of step" in repr(run) and str(path) in repr(run)
    assert main(["show", str(path)]) == 0
    shown = capsys.readouterr().out
    for part in (
        "state['w']: float64[2]",
        "advance/cpu",
        "reverse/cuda",
        "8 steps, streamed in 3 segments of 3",
    ):
        assert part in shown


def test_each_platform_has_programs_of_its_own(run):
    for name, program in run._stored.items():
        assert set(program.modules) == {"cpu", "cuda"}, name
    assert b"lapack" in run._stored["outer_vjp"].modules["cpu"]
    assert b"cusolver" in run._stored["outer_vjp"].modules["cuda"]


def test_a_platform_that_is_not_in_the_file(tmp_path):
    _, run = exported(tmp_path / "run", metagradient(ad="jax"), platforms=("cuda",))
    with pytest.raises(ValueError, match=r"has programs for cuda and not for cpu.*platforms="):
        run(*arguments())


IN_ANOTHER_PROCESS = """
    import importlib.abc, sys

    class Refused(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name.startswith(("enzyme_ad", "metagrad.compiler", "metagrad.api.driver")):
                raise ImportError(name + " is refused")

    sys.meta_path.insert(0, Refused())
    import jax, numpy as np, metagrad
    run = metagrad.load(sys.argv[1], resume_dir=sys.argv[2], save_every=0)
    state = {"w": np.ones(2), "n": 0, "key": jax.random.key(7), "name": "sgd", "act": jax.nn.relu}
    x = np.random.default_rng(3).normal(size=(11, 2))
    stream = metagrad.Stream({"x": x, "one": np.ones(11, np.int32)})
    result = run(state, {"rate": 0.1, "weight": np.float64(2.0)}, stream, 0.5)
    print(float(result.value[0]).hex(), float(result.grad[0]["rate"]).hex())
    print(float(result.grad[2]["x"][4, 1]).hex())
"""


def test_without_enzyme_and_without_the_compiler(path, run, tmp_path):
    environment = os.environ | {"METAGRAD_ENZYME": "/nowhere", "JAX_ENABLE_X64": "0"}
    code = textwrap.dedent(IN_ANOTHER_PROCESS)
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path / "resume")],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    result = run(*arguments(11))
    found = [float.fromhex(text) for text in done.stdout.split()]
    # The tests' own XLA optimises less.
    expected = [result.value[0], result.grad[0]["rate"], result.grad[2]["x"][4, 1]]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_what_cannot_be_exported(tmp_path):
    def printing(w, rate, x):
        jax.debug.print("{}", x)
        return w - rate * x

    mg = metagrad.compile(printing).metagradient(jnp.sum, runtime="streamed")
    compiled = mg.lower(np.ones(2), 0.1, np.ones((3, 2))).compile()
    with pytest.raises(ValueError, match=r"printing or sum calls the host .*Take the calls out"):
        compiled.export(tmp_path / "run")

    class Mine(metagrad.Periodic):
        pass

    lowered = metagradient(ad="jax").lower(*arguments())
    within = plans.with_plan(lowered, LENGTH, within=Mine(2)).compile()
    with pytest.raises(ValueError, match=r"segments follow .*of the class .*Mine, and a file"):
        within.export(tmp_path / "run")
    with pytest.raises(TypeError, match=r"write \('cpu',\)"):
        within.export(tmp_path / "run", platforms="cpu")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there(pair, path):
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        pair[0].export(path, platforms=("cpu",))
    assert path.read_bytes() == before
