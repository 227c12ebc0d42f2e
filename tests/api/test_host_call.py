"""The host's side of a call: leaves are looked at once, changes since the last call are seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metagrad
from metagrad.api import driver, flat_arguments


@pytest.fixture
def lowerings(monkeypatch):
    """How often something was lowered."""
    count = []
    lower = driver.lower
    monkeypatch.setattr(
        driver, "lower", lambda *args, **options: count.append(1) or lower(*args, **options)
    )
    return count


def step(state, rate, x):
    w = state["w"] - rate * metagrad.grad(lambda w: jnp.sum((w - x) ** 2))(state["w"])
    return {**state, "w": w}


@pytest.fixture
def mg():
    return metagrad.compile(step).metagradient(lambda state: jnp.sum(state["w"] ** 2))


XS = jnp.arange(6, dtype=jnp.float32).reshape(3, 2)


def test_a_call_like_the_last_one_flattens_once_and_makes_no_paths(mg, monkeypatch):
    state = {"w": jnp.zeros(2), "name": "adam"}
    mg(state, 0.1, XS)
    flattened = []
    monkeypatch.setattr(
        flat_arguments.jax.tree,
        "flatten",
        lambda tree, flatten=jax.tree.flatten: flattened.append(tree) or flatten(tree),
    )
    monkeypatch.setattr(jax.tree_util, "keystr", lambda path: pytest.fail("a path was made"))
    mg(state, 0.1, XS)
    assert len(flattened) == 1


def test_two_programs_in_turn(mg, lowerings):
    short, long = {"w": jnp.zeros(2)}, {"w": jnp.zeros((4, 2))}
    for state in (short, long, short, long):
        assert mg(state, 0.1, XS).state["w"].shape == state["w"].shape
    assert len(lowerings) == 2


def test_constants_that_are_equal_but_not_the_same_object(mg, lowerings):
    for name in ("adam", str(b"adam", "ascii"), str(b"adam", "ascii"), "sgd", "adam"):
        assert mg({"w": jnp.zeros(2), "name": name}, 0.1, XS).state["name"] == name
    assert len(lowerings) == 2


def test_a_constant_that_is_not_hashable_any_more(mg):
    """The second call differs from the first by a set in place of a frozenset that equals it."""
    mg({"w": jnp.zeros(2), "name": frozenset({1})}, 0.1, XS)
    with pytest.raises(TypeError, match=r"state\['name'\] is \{1\}, which is neither an array nor"):
        mg({"w": jnp.zeros(2), "name": {1}}, 0.1, XS)


def test_weak_and_strong_types_in_turn(mg):
    """One compiled program takes both, whatever it was called with before."""
    compiled = mg.lower({"w": jnp.zeros(2)}, jnp.float32(0.1), XS).compile()
    expected = compiled({"w": jnp.zeros(2)}, jnp.float32(0.1), XS).grad
    weak = jnp.asarray(0.1)
    assert weak.weak_type
    for rate in (0.1, weak, np.float32(0.1), jnp.float32(0.1), np.asarray(0.1, np.float32), 0.1):
        np.testing.assert_array_equal(compiled({"w": jnp.zeros(2)}, rate, XS).grad, expected)


@pytest.mark.parametrize(
    "kind", [np.ndarray, np.memmap, np.recarray], ids=lambda kind: kind.__name__
)
def test_numpy_arrays_may_be_written_to_after_the_call(kind):
    mg = metagrad.compile(step).metagradient(lambda s: jnp.sum(s["w"] ** 2), check_nans=False)
    batches = np.ones((200, 1 << 14), np.float32).view(kind)
    state = {"w": np.zeros(1 << 14, np.float32).view(kind)}
    expected = np.asarray(mg(state, 0.1, batches).state["w"])
    result = mg(state, 0.1, batches)
    batches[:] = np.nan
    state["w"][:] = np.nan
    np.testing.assert_array_equal(result.state["w"], expected)


def test_double_precision_is_another_program(mg, lowerings):
    state, xs = {"w": np.zeros(2)}, np.arange(6.0).reshape(3, 2)
    single = mg(state, 0.1, xs)
    with jax.enable_x64(True):
        double = mg(state, 0.1, xs)
    again = mg(state, 0.1, xs)
    assert (single.grad.dtype, double.grad.dtype, again.grad.dtype) == ("f4", "f8", "f4")
    assert len(lowerings) == 2
    np.testing.assert_allclose(single.grad, double.grad, rtol=1e-6)
    np.testing.assert_array_equal(single.grad, again.grad)


@pytest.mark.parametrize(
    "setting",
    [
        lambda: jax.default_matmul_precision("bfloat16"),
        lambda: jax.threefry_partitionable(not jax.config.jax_threefry_partitionable),
        lambda: jax.numpy_rank_promotion("warn"),
    ],
    ids=["matmul precision", "partitionable bits", "rank promotion"],
)
def test_another_setting_of_jax_is_another_program(mg, lowerings, setting):
    """As under `jax.jit`: what is traced may depend on it."""
    state = {"w": jnp.zeros(2)}
    mg(state, 0.1, XS)
    with setting():
        mg(state, 0.1, XS)
        mg(state, 0.1, XS)
    mg(state, 0.1, XS)
    assert len(lowerings) == 2


def test_random_bits_are_those_of_the_settings():
    """A number drawn in the step, of a shape for which the two ways of drawing differ."""
    draw = metagrad.compile(lambda w, z, key: w + z * jax.random.normal(key, (3,)))
    mg = draw.metagradient(jnp.sum)
    arguments = jnp.zeros(3), 1.0, jax.random.split(jax.random.key(0), 2)
    for partitionable in (False, True, False):
        with jax.threefry_partitionable(partitionable):
            expected = sum(jax.random.normal(key, (3,)) for key in arguments[2])
            np.testing.assert_allclose(mg(*arguments).state, expected, rtol=1e-6)


def test_a_call_under_jit_uses_the_program_of_a_call_outside(mg, lowerings):
    """Tracing is not a setting: the same shapes are the same program."""
    state = {"w": jnp.zeros(2)}
    expected = mg(state, jnp.float32(0.1), XS).grad
    np.testing.assert_allclose(
        jax.jit(lambda *args: mg(*args).grad)(state, jnp.float32(0.1), XS), expected, rtol=1e-6
    )
    np.testing.assert_allclose(
        jax.lax.map(lambda rate: mg(state, rate, XS).grad, jnp.full(2, 0.1, jnp.float32)),
        expected,
        rtol=1e-6,
    )
    assert len(lowerings) == 1


def test_typed_keys_beside_arrays(mg, lowerings):
    values = [
        mg({"w": jnp.zeros(2), "key": jax.random.key(seed)}, 0.1, XS).state["key"]
        for seed in (0, 1, 2)
    ]
    assert [int(jax.random.key_data(key)[-1]) for key in values] == [0, 1, 2]
    mg({"w": jnp.zeros(2), "key": jax.random.key(0, impl="rbg")}, 0.1, XS)
    assert len(lowerings) == 2


class Wrapped:
    """An object that becomes an array, as JAX asks for one."""

    def __init__(self, array):
        self.array = array

    def __jax_array__(self):
        return self.array


def test_what_would_become_an_array_is_no_constant(mg):
    """JAX refuses it, in words of its own; as a constant each object would be a new program."""
    with pytest.raises(ValueError, match="explicitly convert your object"):
        mg({"w": Wrapped(jnp.ones(2))}, 0.1, XS)


def test_a_leaf_that_jax_does_not_take(mg):
    state = {"w": np.asarray(["a", "b"], object)}
    with pytest.raises(TypeError, match="not a valid JAX array type"):
        mg(state, 0.1, XS)
    compiled = mg.lower({"w": jnp.zeros(2)}, 0.1, XS).compile()
    with pytest.raises(TypeError, match="state has the structure"):
        compiled(state | {"n": 1}, 0.1, XS)
