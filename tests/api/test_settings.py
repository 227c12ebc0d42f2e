"""JAX's settings: a change between calls is seen, and the checks for debugging are honoured."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metagrad


def step(w, z, x):
    return w - z * metagrad.grad(lambda w: jnp.sum((x @ w) ** 2))(w)


def outer(w):
    return jnp.sum(w**2)


ARGUMENTS = jnp.ones(2), jnp.float32(0.1), jnp.arange(12.0).reshape(3, 2, 2) / 10


def by_jax(step, outer, state, meta, batches):
    def value(meta):
        return outer(jax.lax.scan(lambda s, b: (step(s, meta, b), None), state, batches)[0])

    return jax.value_and_grad(value)(meta)


def assert_as_jax(mg, step, outer, *arguments):
    # Traced each time, as the settings are at that time.
    value, grad = jax.jit(lambda *a: by_jax(step, outer, *a))(*arguments)
    result = mg(*arguments)
    np.testing.assert_allclose(result.value, value, rtol=1e-6)
    np.testing.assert_allclose(result.grad, grad, rtol=1e-6)
    return float(value)


@contextlib.contextmanager
def setting(name, value):
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)


def draw(w, z, seed):
    """Makes its keys itself, of the kind that the settings name."""
    new, old = jax.random.key(seed), jax.random.PRNGKey(seed)
    return w + z * (jax.random.normal(new, (3,)) + jax.random.uniform(old, (3,)))


DRAWS = {
    "partitionable bits": [("jax_threefry_partitionable", value) for value in (False, True)],
    "kind of keys": [("jax_default_prng_impl", value) for value in ("threefry2x32", "rbg")],
    "seeds": [("jax_random_seed_offset", value) for value in (0, 7)],
}


@pytest.mark.parametrize("name", DRAWS)
def test_random_numbers_are_those_of_the_settings(name):
    """In a call, in one under `jax.jit`, and after the setting was changed back."""
    mg = metagrad.compile(draw).metagradient(jnp.sum)
    arguments = jnp.zeros(3), jnp.float32(0.5), jnp.arange(2)
    values = []
    for key, value in (*DRAWS[name], *DRAWS[name]):
        with setting(key, value):
            values.append(assert_as_jax(mg, draw, jnp.sum, *arguments))
            under_jit = jax.jit(lambda z: mg(arguments[0], z, arguments[2]).value)(arguments[1])
            np.testing.assert_allclose(under_jit, values[-1], rtol=1e-6)
    assert values[:2] == values[2:] and values[0] != values[1]


def test_typed_or_raw_keys():
    """`jax_enable_custom_prng` makes `PRNGKey` give typed keys."""
    mixed = lambda w, z, x: w + z * (2.0 if jax.random.PRNGKey(3).ndim else 3.0)
    mg = metagrad.compile(mixed).metagradient(lambda w: w)
    values = []
    for typed in (False, True, False):
        with setting("jax_enable_custom_prng", typed):
            values.append(assert_as_jax(mg, mixed, lambda w: w, 0.0, 1.0, jnp.arange(1)))
    assert values == [2, 3, 2]


REFUSALS = {
    "jax_numpy_rank_promotion": ("raise", lambda w, z, x: w + z * x, "rank_promotion"),
    "jax_numpy_dtype_promotion": (
        "strict",
        lambda w, z, x: w + z * jnp.int32(2) + x[0, 0],
        "no available implicit dtype promotion",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_setting_refuses_is_refused_in_a_later_call(name):
    value, refused, message = REFUSALS[name]
    mg = metagrad.compile(refused).metagradient(jnp.sum)
    arguments = jnp.ones((2, 2)), jnp.float32(0.5), jnp.ones((1, 2, 2))
    if "rank" in name:
        arguments = jnp.ones((2, 2)), jnp.float32(0.5), jnp.ones((1, 2))
    expected = assert_as_jax(mg, refused, jnp.sum, *arguments)
    with setting(name, value), pytest.raises(ValueError, match=message):
        mg(*arguments)
    assert float(mg(*arguments).value) == pytest.approx(expected)


def test_products_have_the_precision_of_the_settings():
    """Seen in the program: on a CPU XLA computes all of them alike."""
    mg = metagrad.compile(step).metagradient(outer)
    for precision, shown in (
        ("highest", "HIGHEST"),
        ("default", "DEFAULT"),
        ("highest", "HIGHEST"),
    ):
        with jax.default_matmul_precision(precision):
            mg(*ARGUMENTS)
            mg(*ARGUMENTS)
        program = mg._latest[2].program.snapshots.text("pieces")
        precisions = [
            line.split("precision = ")[1] for line in program.splitlines() if "dot_general" in line
        ]
        assert precisions and all(text.startswith(f"[{shown}, {shown}]") for text in precisions)
    assert len(mg._programs) == 2


@pytest.mark.parametrize("promotion", ["standard", "strict"])
def test_products_and_casts_of_narrow_floats_under_strict_promotion(promotion):
    """What metagrad asks of dtypes itself is not asked by the user's rules."""

    def narrow(s, z, x):
        q = s["q"].astype(jnp.bfloat16)
        product = lambda w: jnp.dot(q, w.astype(jnp.bfloat16), preferred_element_type=jnp.float32)
        gradient = metagrad.grad(lambda w: product(w) ** 2)(s["w"])
        kept = s["kept"] + jnp.float32(0) * z
        return {"w": s["w"] - z * gradient + s["q"].astype(jnp.float32), "q": s["q"], "kept": kept}

    total = lambda s: jnp.sum(s["w"] ** 2)
    state = {
        "w": jnp.asarray([1.0, 0.5]),
        "q": jnp.asarray([0.5, 1.0], jnp.float8_e4m3fn),
        "kept": jnp.ones(2),
    }
    mg = metagrad.compile(narrow).metagradient(total)
    with jax.numpy_dtype_promotion(promotion):
        assert_as_jax(mg, narrow, total, state, jnp.float32(0.125), jnp.arange(2))


# --- jax.disable_jit ------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["the first call", "a later call", "all stages"])
def test_a_metagradient_is_one_program_under_disable_jit_too(when):
    inner = jax.jit(step)
    mg = metagrad.compile(lambda w, z, x: inner(w, z, x)).metagradient(outer)
    expected = by_jax(step, outer, *ARGUMENTS)
    if when == "a later call":
        mg(*ARGUMENTS)
    with jax.disable_jit():
        if when == "all stages":
            lowered = mg.lower(*ARGUMENTS)
            assert "@step" in lowered.ir("traced")
            result = lowered.compile()(*ARGUMENTS)
        else:
            result = mg(*ARGUMENTS)
        # The plain step runs op by op, as JAX has it.
        metagrad.compile(step)(*ARGUMENTS[:2], ARGUMENTS[2][0])
    assert len(mg._programs) == (when != "all stages")
    np.testing.assert_allclose((result.value, result.grad), expected, rtol=1e-6)


def test_a_search_for_a_nan_under_disable_jit():
    mg = metagrad.compile(lambda w, z, x: jnp.log(w * z) * x).metagradient(jnp.sum, check_nans=True)
    with jax.disable_jit(), pytest.raises(FloatingPointError, match="at step 0, in state"):
        mg(-jnp.ones(2), 1.0, jnp.ones(2))


# --- jax_debug_nans and jax_debug_infs ------------------------------------------------------------


def root(w, z, x):
    return w - z * jnp.sqrt(w - x)


BAD = jnp.ones(2), jnp.float32(0.5), jnp.asarray([0.5, 2.0])


@pytest.mark.parametrize("check_nans", [None, True, False])
@pytest.mark.parametrize("first", [True, False], ids=["first call", "later call"])
def test_debug_nans_says_where_the_nan_came_from(check_nans, first):
    mg = metagrad.compile(root).metagradient(jnp.sum, check_nans=check_nans)
    good = jnp.ones(2), jnp.float32(0.5), jnp.asarray([0.5, 0.4])
    if not first:
        mg(*good)
    with jax.debug_nans(True):
        with pytest.raises(
            FloatingPointError,
            match=r"a NaN in value, .*Training itself gave the first NaN: at step 1, in state",
        ):
            mg(*BAD)
        np.testing.assert_allclose(mg(*good).value, by_jax(root, jnp.sum, *good)[0], rtol=1e-6)
        compiled = mg.lower(*good).compile()
        with pytest.raises(FloatingPointError, match="at step 1, in state"):
            compiled(*BAD)


def test_debug_nans_under_jit(capfd):
    mg = metagrad.compile(root).metagradient(jnp.sum)
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="at step 1, in state"):
        jax.jit(lambda *a: mg(*a).value)(*BAD)
    capfd.readouterr()


def test_debug_nans_looks_at_auxiliary_outputs_too():
    """As JAX does, which looks at all results of a compiled function."""
    step = metagrad.compile(lambda w, z, x: (w * z, {"log": jnp.log(x)}), has_aux=True)
    mg = step.metagradient(jnp.sum)
    with (
        jax.debug_nans(True),
        pytest.raises(
            FloatingPointError, match=r"a NaN in aux\['log'\]. \(jax_debug_nans is on.\)"
        ),
    ):
        mg(jnp.ones(2), 1.0, jnp.asarray([1.0, -1.0]))


def test_debug_infs():
    mg = metagrad.compile(lambda w, z, x: w * z / x).metagradient(
        lambda w: jnp.sum(1 / w), check_nans=False
    )
    arguments = jnp.ones(2), jnp.float32(1), jnp.asarray([1.0, 0.0])
    with (
        jax.debug_infs(True),
        pytest.raises(
            FloatingPointError, match=r"an infinity in .*state. \(jax_debug_infs is on.\)"
        ),
    ):
        mg(*arguments)
    assert np.isinf(mg(*arguments).state).all()


# --- Double precision -----------------------------------------------------------------------------

DOUBLE = np.ones(2), np.float64(0.1), np.arange(12.0).reshape(3, 2, 2) / 10


def test_a_program_lowered_in_double_precision_is_called_outside_of_it():
    mg = metagrad.compile(step).metagradient(outer)
    with jax.enable_x64(True):
        value, grad = by_jax(step, outer, *map(jnp.asarray, DOUBLE))
        arrays = tuple(map(jnp.asarray, DOUBLE))
        lowered = mg.lower(*DOUBLE)
    assert "f64" in lowered.ir("traced") and "f32" not in lowered.ir("traced")
    compiled = lowered.compile()
    for arguments in (DOUBLE, arrays, (DOUBLE[0], 0.1, DOUBLE[2])):
        result = compiled(*arguments)
        assert result.grad.dtype == result.state.dtype == np.float64
        np.testing.assert_allclose((result.value, result.grad), (value, grad), rtol=1e-12)
    under_jit = jax.jit(lambda *a: compiled(*a).grad)(*arrays)
    np.testing.assert_allclose(under_jit, grad, rtol=1e-12)
    assert not jax.config.jax_enable_x64


def test_a_program_lowered_in_single_precision_is_called_in_double():
    lowered = metagrad.compile(step).metagradient(outer).lower(*ARGUMENTS)
    expected = by_jax(step, outer, *ARGUMENTS)
    with jax.enable_x64(True):
        compiled = lowered.compile()
        for arguments in (ARGUMENTS, (ARGUMENTS[0], 0.1, ARGUMENTS[2])):
            result = compiled(*arguments)
            assert result.grad.dtype == np.float32
            np.testing.assert_allclose((result.value, result.grad), expected, rtol=1e-6)
        with pytest.raises(
            TypeError, match="state is float64, and this program was compiled for float32"
        ):
            compiled(*map(jnp.asarray, DOUBLE))
