"""A compiled run in a file: written, loaded and called as what it was written from."""

import collections
import dataclasses
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metagrad
from metagrad.api import export, static_parts

pytestmark = pytest.mark.usefixtures("double")

ROWS = np.random.default_rng(0).normal(size=(200, 2))
Info = collections.namedtuple("Info", "loss seen")


def step(state, meta, x):
    def loss(w):
        return jnp.sum(jnp.tanh(w * x) ** 2) + jnp.mean((ROWS @ w) ** 2)

    noise = jax.random.normal(jax.random.fold_in(state["key"], state["n"]), (2,))
    w = state["w"] - meta["rate"] * metagrad.grad(loss)(state["w"]) + 0.01 * noise
    return {**state, "w": w, "n": state["n"] + 1}, Info(loss(w), [x, {"none": None}])


def outer(state, target):
    factor = jnp.linalg.cholesky(jnp.eye(2) + jnp.outer(state["w"], state["w"]))
    error = jnp.sum((state["w"] - target) ** 2)
    return error + factor[1, 0], {"error": error, "norm": "squared"}


XS = np.linspace(-1, 1, 6).reshape(3, 2)
META = {"rate": 0.1}
TARGET = 0.5


def state0():
    return {
        "w": np.ones(2),
        "n": 0,
        "key": jax.random.key(7),
        "name": "sgd",
        "act": jax.nn.relu,
        "size": np.int32(3),
    }


mg = metagrad.compile(step, has_aux=True).metagradient(outer, has_aux=True, wrt=("state", "meta"))


@pytest.fixture(scope="module")
def compiled(double):
    return mg.lower(state0(), META, XS, TARGET).compile()


@pytest.fixture(scope="module")
def path(compiled, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "run.mg"
    assert compiled.export(path) == path.stat().st_size
    return path


@pytest.fixture(scope="module")
def run(path):
    return metagrad.load(path)


def assert_same(result, expected):
    assert jax.tree.structure(result) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(result), jax.tree.leaves(expected)):
        if not hasattr(other, "dtype"):
            assert one is other or one == other
            continue
        assert one.dtype == other.dtype
        if jnp.issubdtype(other.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        if jnp.issubdtype(other.dtype, jnp.floating):
            # The compiled program also says whether its results are finite, so XLA may fuse, and
            # round, otherwise.
            limit = 4 * float(jnp.finfo(other.dtype).eps)
            np.testing.assert_allclose(one, other, rtol=limit, atol=0)
        else:
            np.testing.assert_array_equal(one, other)


def test_the_result_is_that_of_what_was_exported(compiled, run):
    result, expected = run(state0(), META, XS, TARGET), compiled(state0(), META, XS, TARGET)
    assert type(result) is metagrad.ResultWithAux
    assert result.aux._fields == Info._fields and type(result.aux).__name__ == "Info"
    assert_same(result._replace(aux=Info(*result.aux)), expected)
    assert result.grad[0]["n"].dtype == jax.dtypes.float0


def test_the_gradient_is_jaxs_of_the_unrolled_run(run, monkeypatch):
    monkeypatch.setattr(metagrad, "grad", jax.grad)

    def unrolled(rate):
        state = state0()
        for x in XS:
            state, _ = step(state, {"rate": rate}, x)
        return outer(state, TARGET)[0]

    value, expected = jax.value_and_grad(unrolled)(META["rate"])
    result = run(state0(), META, XS, TARGET)
    np.testing.assert_allclose(result.value[0], value, rtol=1e-11)
    np.testing.assert_allclose(result.grad[1]["rate"], expected, rtol=1e-11)


def test_called_without_double_precision(run):
    expected = run(state0(), META, XS, TARGET)
    with jax.enable_x64(False):
        assert_same(run(state0(), META, XS, TARGET), expected)


def test_transformed(run):
    def value(rate):
        return run(state0(), {"rate": rate}, XS, TARGET).value[0]

    expected = run(state0(), META, XS, TARGET)
    np.testing.assert_allclose(jax.jit(value)(0.1), expected.value[0], rtol=1e-12)
    np.testing.assert_allclose(jax.grad(value)(0.1), expected.grad[1]["rate"], rtol=1e-12)
    mapped = jax.lax.map(value, jnp.asarray([0.1, 0.1]))
    np.testing.assert_allclose(mapped, 2 * [expected.value[0]], rtol=1e-12)
    with pytest.raises(NotImplementedError, match=r"cannot be put under jax\.vmap"):
        jax.vmap(value)(jnp.asarray([0.1, 0.1]))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"w": np.ones(3)}, r"state\['w'\] has shape \(3,\)"),
        ({"w": np.ones(2, np.float32)}, r"state\['w'\] is float32, .* float64"),
        ({"name": "adam"}, r"state\['name'\] is 'adam', .* exported for 'sgd'"),
        ({"act": jax.nn.gelu}, r"state\['act'\] is .*gelu.*, .* exported for relu"),
        ({"more": 1.0}, r"state\['more'\] is not a leaf of what this program was exported for"),
        ({"name": 1.0}, r"state\['name'\] is 1.0, and this program was exported for 'sgd'"),
        ({"w": "none"}, r"state\['w'\] is 'none', and this program was compiled for float64\[2\]"),
        ({"key": jax.random.PRNGKey(0)}, r"state\['key'\] has shape \(2,\)"),
        ({"key": jax.random.key(0, impl="rbg")}, r"state\['key'\] is key<rbg>, .*key<fry>"),
    ],
    ids=lambda value: value if isinstance(value, str) else ", ".join(value),
)
def test_arguments_that_do_not_fit(run, change, message):
    with pytest.raises(TypeError, match=message):
        run(state0() | change, META, XS, TARGET)


def test_missing_leaves(run):
    state = state0()
    del state["n"]
    with pytest.raises(TypeError, match=r"state has no leaf state\['n'\]"):
        run(state, META, XS, TARGET)
    with pytest.raises(TypeError, match=r"outer_args has no leaf outer_args\[0\]"):
        run(state0(), META, XS)


def test_structures_in_turn(run):
    """The results have the structure of the arguments: a list stands where a tuple stood."""

    class Meta(dict):
        pass

    jax.tree_util.register_pytree_with_keys(
        Meta,
        lambda m: ([(jax.tree_util.DictKey(k), v) for k, v in m.items()], tuple(m)),
        lambda keys, values: Meta(zip(keys, values)),
    )
    for _ in range(2):
        for kind in (dict, Meta):
            assert type(run(state0(), kind(META), XS, TARGET).grad[1]) is kind


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Net:
    w: jax.Array
    keep: float = dataclasses.field(metadata={"static": True})
    act: object = dataclasses.field(metadata={"static": True})


class Module(eqx.Module):
    w: jax.Array
    keep: float = eqx.field(static=True)
    act: object = eqx.field(static=True)


@pytest.mark.parametrize("kind", [Net, Module])
def test_a_static_part_that_differs(tmp_path, kind):
    def step(net, rate, x):
        loss = lambda w: jnp.sum((net.keep * net.act(w) - x) ** 2)
        w = net.w - rate * metagrad.grad(loss)(net.w)
        return jax.tree.unflatten(jax.tree.structure(net), [w])

    mg = metagrad.compile(step, ad="jax").metagradient(lambda net: jnp.sum(net.w))
    arguments = kind(jnp.ones(2), 0.5, jnp.tanh), 0.1, XS
    mg.lower(*arguments).compile().export(tmp_path / "run", platforms=("cpu",))
    run = metagrad.load(tmp_path / "run")
    expected = run(*arguments).grad
    for other in (kind(jnp.ones(2), 0.9, jnp.tanh), kind(jnp.ones(2), 0.5, jnp.sin)):
        with pytest.warns(UserWarning, match=f"a {kind.__name__} in state has the static part"):
            assert run(other, 0.1, XS).grad == expected


class Knot:
    """A static part that is large and refers to itself."""

    __slots__ = ("first", "second", "third")

    def __init__(self):
        self.first = self.second = self
        self.third = range(10**9)


def test_the_text_of_a_static_part_is_bounded():
    net = Net(jnp.ones(2), 0.5, (Knot(), 10**6 * (Knot,), "\x1b"))
    ((kind, text),) = static_parts.static_parts(jax.tree.structure(net))
    assert kind == "Net" and len(text) == 1000 and text.isprintable()


def test_the_plan_and_what_is_shown(compiled, run, path, capsys):
    from metagrad.cli import main

    assert run.plan == compiled.plan and run.platforms == ("cpu", "cuda")
    assert "step" in repr(run) and str(path) in repr(run)
    assert main(["show", str(path)]) == 0
    shown = capsys.readouterr().out
    for part in ("state['w']: float64[2]", "programs:", "fused/cuda", str(run.plan.schedule)):
        assert part in shown
    assert f"captured arrays: 1, {ROWS.nbytes:,} bytes" in shown
    assert jax.__version__ in shown


def test_show_of_another_file(tmp_path, capsys):
    from metagrad.cli import main

    (tmp_path / "x").write_text("hello")
    assert main(["show", str(tmp_path / "x")]) == 1
    assert "is not a file that compiled.export wrote" in capsys.readouterr().err


def test_both_platforms_have_a_module_of_their_own(run, path):
    lowered = jax.jit(lambda w: run(state0() | {"w": w}, META, XS, TARGET).value[0]).trace(
        np.ones(2)
    )
    assert "lapack" in lowered.lower(lowering_platforms=("cpu",)).as_text()
    assert "cusolver" in lowered.lower(lowering_platforms=("cuda",)).as_text()
    with pytest.raises(ValueError, match=r"has programs for cpu, cuda and not for tpu.*platforms="):
        lowered.lower(lowering_platforms=("tpu",))


def test_no_file_names_of_the_author_are_in_the_file(path):
    data = path.read_bytes()
    assert os.path.basename(__file__).encode() not in data and b"jax_internals" not in data


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn, jnp.int8, bool])
def test_captured_arrays_and_leaves_of_other_dtypes(tmp_path, dtype):
    table = jnp.arange(4096).reshape(2048, 2).astype(dtype)

    def step(state, rate, x):
        w, flags = state
        row = table[x].astype(w.dtype) + flags.astype(w.dtype)
        return w - rate * metagrad.grad(lambda w: jnp.sum((w - row) ** 2))(w), flags

    mg = metagrad.compile(step, ad="jax").metagradient(lambda state: jnp.sum(state[0]))
    arguments = (jnp.ones(2), jnp.ones(2, dtype)), 0.1, np.asarray([3, 5])
    compiled = mg.lower(*arguments).compile()
    compiled.export(tmp_path / "run", platforms=("cpu",))
    assert_same(metagrad.load(tmp_path / "run")(*arguments), compiled(*arguments))


def test_captured_arrays_are_not_copied(run):
    """To the file from where they are; from it to where XLA takes them as they are."""
    array = np.ones((100, 200))
    assert np.shares_memory(export.array_bytes(array), array)
    (captured,) = run._captured.beside([])
    (payload,) = run._captured._arrays[None]
    assert payload.ctypes.data % 64 == 0 and not payload.flags.writeable
    assert captured.unsafe_buffer_pointer() == payload.ctypes.data


def test_the_results_of_two_threads(run):
    """Arguments of two structures at once."""
    more = {"rate": np.float64(0.1)}
    expected = run(state0(), META, XS, TARGET)
    with ThreadPoolExecutor(2) as pool:
        for result in pool.map(lambda i: run(state0(), (META, more)[i % 2], XS, TARGET), range(20)):
            assert_same(result, expected)


def test_equinox_and_optax(tmp_path):
    """Modules and optimiser states, with functions among their leaves."""
    optimiser = optax.adam(0.1, eps_root=1e-8)
    model = eqx.nn.MLP(2, "scalar", 3, 1, key=jax.random.key(0))

    def step(state, rate, x):
        model, opt = state
        arrays, rest = eqx.partition(model, eqx.is_array)
        loss = lambda arrays: jnp.sum(jax.vmap(eqx.combine(arrays, rest))(x) ** 2)
        updates, opt = optimiser.update(metagrad.grad(loss)(arrays), opt)
        return eqx.apply_updates(model, jax.tree.map(lambda u: rate * u, updates)), opt

    mg = metagrad.compile(step).metagradient(lambda s: jnp.sum(s[0].layers[0].weight ** 2))
    arguments = (model, optimiser.init(eqx.filter(model, eqx.is_array))), 1.0, XS.reshape(3, 1, 2)
    compiled = mg.lower(*arguments).compile()
    compiled.export(tmp_path / "run", platforms=("cpu",))
    result = metagrad.load(tmp_path / "run")(*arguments)
    assert_same(result, compiled(*arguments))
    assert type(result) is metagrad.Result and isinstance(result.state[0], eqx.nn.MLP)


IN_ANOTHER_PROCESS = """
    import importlib.abc, sys

    class Refused(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name.startswith(("enzyme_ad", "metagrad.compiler", "metagrad.api.driver")):
                raise ImportError(name + " is refused")

    sys.meta_path.insert(0, Refused())
    import jax, numpy as np, metagrad
    run = metagrad.load(sys.argv[1])
    state = {"w": np.ones(2), "n": 0, "key": jax.random.key(7), "name": "sgd", "act": jax.nn.relu,
             "size": np.int32(3)}
    result = run(state, {"rate": 0.1}, np.linspace(-1, 1, 6).reshape(3, 2), 0.5)
    print(float(result.value[0]).hex(), float(result.grad[1]["rate"]).hex())
"""


def test_without_enzyme_and_without_the_compiler(path, run):
    environment = os.environ | {"METAGRAD_ENZYME": "/nowhere", "JAX_ENABLE_X64": "0"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(IN_ANOTHER_PROCESS), str(path)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    result = run(state0(), META, XS, TARGET)
    found = [float.fromhex(text) for text in done.stdout.split()]
    # The tests' own XLA optimises less.
    np.testing.assert_allclose(found, [result.value[0], result.grad[1]["rate"]], rtol=1e-12)


@pytest.mark.parametrize(
    "platforms, error, message",
    [
        ("cpu", TypeError, r"write \('cpu',\)"),
        (("gpu",), ValueError, r"'gpu', which is not one: .*'cuda'"),
        ((), ValueError, "platforms is empty"),
    ],
)
def test_platforms(compiled, tmp_path, platforms, error, message):
    with pytest.raises(error, match=message):
        compiled.export(tmp_path / "run", platforms=platforms)
