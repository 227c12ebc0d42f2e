"""`metagrad.check`: what it says of right and wrong metagradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checked import DATA, META, START, descend, metagradient, squares, text

import metagrad
from metagrad.api.metagradient import Metagradient


@pytest.fixture(scope="module")
def smooth():
    """One metagradient for all tests that look at options: it compiles once for each precision."""
    return metagradient()


# --- Smooth runs ----------------------------------------------------------------------------------


def test_a_smooth_run(smooth):
    report = metagrad.check(smooth, START, META, DATA)
    assert report.verdict == "agrees" and report.relative_error < 1e-9
    assert report.dtype == "float64" and report.precision == ""
    assert [d.name for d in report.directions] == ["gradient", "random 1", "random 2", "random 3"]
    assert report.cuts == report.without_cuts == ()
    assert report.moved == ("meta['rate']", "meta['weight']")
    assert "scaled by each leaf's root mean square" in text(report)
    low, high = report.step_sizes
    assert low < 1e-7 and high > 1e-3
    assert repr(report) == str(report)
    assert text(report).startswith("metagrad.check: agrees. The metagradient with respect to meta")
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.verdict = "disagrees"


def test_single_precision(smooth):
    report = metagrad.check(smooth, START, META, DATA, x64=False)
    assert report.verdict == "agrees" and 1e-9 < report.relative_error < 1e-3
    assert report.dtype == "float32" and "All this is in float32: x64=False was given." in text(
        report
    )
    assert report.step_sizes[0] > 1e-6


def test_the_seed_and_the_number_of_directions(smooth):
    one, same, other = (
        metagrad.check(smooth, START, META, DATA, directions=1, seed=seed, x64=False)
        for seed in (1, 1, 2)
    )
    assert one == same and one != other and len(one.directions) == 2


@pytest.mark.parametrize(
    "leaf, index, of",
    [
        ("meta['rate']", None, "meta['rate']"),
        ("meta['weight']", 1, "meta['weight'][1]"),
        ("meta['weight']", None, "meta['weight']"),
    ],
)
def test_one_leaf_or_one_entry(smooth, leaf, index, of):
    report = metagrad.check(smooth, START, META, DATA, leaf=leaf, index=index, directions=1)
    assert report.verdict == "agrees" and report.of == of
    if report.directions[0].name == "the entry":
        (direction,) = report.directions
        with jax.enable_x64(True):
            double = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), (START, META, DATA))
            grad = jax.tree.map(np.asarray, smooth(*double).grad)
        entry = grad["rate"] if index is None else grad["weight"][index]
        np.testing.assert_allclose(direction.metagradient, entry, rtol=1e-12)
        np.testing.assert_allclose(direction.estimate, entry, rtol=1e-7)
        assert f"The numbers are derivatives by {of}, as" in text(report)
        assert f"metagradient {entry:.6g}" in text(report)
    else:
        # Along a gradient of the root mean square 1 the derivative is the gradient's norm, times
        # the root of how many entries it has.
        with jax.enable_x64(True):
            double = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), (START, META, DATA))
            weight = np.asarray(smooth(*double).grad["weight"])
        along, random = report.directions
        np.testing.assert_allclose(
            along.metagradient, np.linalg.norm(weight) * np.sqrt(2), rtol=1e-12
        )
        assert abs(random.metagradient) <= along.metagradient * (1 + 1e-12)
        assert "whose entries have the root mean square 1" in text(report)


def test_step_sizes(smooth):
    sizes = [1e-3, 1e-2, 3e-2, 1e-1]
    report = metagrad.check(smooth, START, META, DATA, step_sizes=sizes, directions=1)
    assert report.verdict == "agrees" and report.directions[0].step_sizes == tuple(sizes[::-1])


def test_all_kinds_of_arguments():
    """Typed keys, counters and strings in the state, aux of both functions, wrt of three."""

    def step(s, z, b):
        key, sub = jax.random.split(s["key"])
        noise = 0.01 * jax.random.normal(sub, (2,), s["w"].dtype)
        w = s["w"] - z * metagrad.grad(lambda w: jnp.sum((w - b["x"]) ** 4))(s["w"]) + noise
        return {**s, "w": w, "key": key, "count": s["count"] + 1}, jnp.sum(w)

    def outer(s, target, power):
        distance = jnp.sum((s["w"] - target) ** power)
        return distance, {"count": s["count"]}

    mg = metagrad.compile(step, has_aux=True).metagradient(
        outer, ("batches", "state", "meta"), has_aux=True
    )
    state = {"w": START, "key": jax.random.key(0), "count": 0, "name": "w"}
    batches = {"x": DATA, "row": jnp.arange(3)}
    report = metagrad.check(mg, state, 0.01, batches, START + 1, 2, directions=1)
    assert report.verdict == "agrees" and report.relative_error < 1e-8
    assert report.of == "batches and state and meta" and report.dtype == "float64"
    row = metagrad.check(
        mg, state, 0.01, batches, START + 1, 2, leaf="batches['x']", index=1, directions=1
    )
    assert row.verdict == "agrees" and "batches['x'][1]" in text(row)


def test_captured_arrays():
    """They keep their precision where the arguments are cast, and that is enough."""
    target, scale = jnp.linspace(-1, 1, 2000), jnp.linspace(0.5, 1, 3)
    step = lambda w, z, t: w - z * jnp.tanh(w - target) * scale[t]
    report = metagrad.check(
        metagradient(step, lambda w: jnp.sum((w * target) ** 2)),
        jnp.zeros(2000),
        0.1,
        jnp.arange(3),
    )
    assert report.verdict == "agrees" and report.dtype == "float64"
    assert report.relative_error < 1e-9


def test_a_metagradient_inside_the_step():
    inner = metagradient(lambda w, m, x: w - m * x * w, lambda w: jnp.sum(w**2), "state")
    step = lambda w, z, x: w - z * inner(w, jax.lax.stop_gradient(z), DATA).value * x
    report = metagrad.check(metagradient(step, wrt="state"), START, 0.1, DATA, directions=1)
    assert report.verdict == "agrees" and report.relative_error < 1e-8


def test_one_kink_far_away():
    step = lambda w, z, x: w - z * jnp.sin(w) * x - 2 * jnp.maximum(z - 0.104, 0.0)
    report = metagrad.check(metagradient(step), START, 0.1, DATA)
    assert report.verdict == "agrees" and report.relative_error < 1e-8
    assert report.kinks and "more than 10% off" in text(report)


def test_a_run_that_does_not_depend_on_the_metaparameter():
    report = metagrad.check(metagradient(lambda w, z, x: w * x + 0 * z), START, 0.1, DATA)
    assert report.verdict == "agrees" and "is zero, and the differences are zero" in text(report)


# --- Precision ------------------------------------------------------------------------------------


def narrow(w, z, x):
    return w - z * jnp.sin(w.astype(jnp.float32)).astype(w.dtype) * x


def fixed(w, z, x):
    return (w - z * jnp.sin(w) * x).astype(jnp.float32)


@pytest.mark.parametrize(
    "step, reason",
    [
        (narrow, "for float64 arguments too the run has a conversion to float32 (tests/frontend/"),
        (fixed, "the run does not take float64 arguments (TypeError: "),
    ],
)
def test_a_step_that_is_in_single_precision(step, reason):
    mg = metagradient(step)
    report = metagrad.check(mg, START, 0.1, DATA)
    assert report.verdict == "agrees" and report.dtype == "float32"
    assert f"All this is in float32: {reason}" in text(report)
    assert 0 < report.relative_error < 1e-2
    with pytest.raises(ValueError, match="x64=True, but "):
        metagrad.check(mg, START, 0.1, DATA, x64=True)


def test_an_outer_function_in_single_precision():
    mg = metagradient(outer=lambda w: jnp.sum(w**2).astype(jnp.float32))
    report = metagrad.check(mg, START, META, DATA)
    assert report.verdict == "agrees" and "the outer value is float32" in report.precision


def test_double_precision_from_the_start():
    with jax.enable_x64(True):
        start, meta, data = jax.tree.map(lambda a: jnp.asarray(a, float), (START, META, DATA))
        report = metagrad.check(metagradient(), start, meta, data)
    assert report.verdict == "agrees" and report.relative_error < 1e-9
    assert report.dtype == "float64" and report.precision == ""


# --- Wrong derivatives ----------------------------------------------------------------------------


def test_a_stop_on_the_way():
    step = lambda w, z, x: w - jax.lax.stop_gradient(z) * w * x - z**2
    report = metagrad.check(metagradient(step), START, 0.1, DATA)
    assert report.verdict == "disagrees"
    (direction,) = report.directions
    run = lambda z: squares(jax.lax.scan(lambda w, x: (w - z * w * x - z**2, 0), START, DATA)[0])
    np.testing.assert_allclose(direction.estimate, jax.grad(run)(0.1), rtol=1e-5)
    np.testing.assert_allclose(report.without_cuts[0], direction.estimate, rtol=1e-7)
    (place,) = report.cuts
    assert place.kind == "stop_gradient" and place.line.startswith("tests/frontend/test_check.py:")
    assert f"stop_gradient in a lambda ({place.line})" in text(report)
    assert "With them taken out, JAX's derivative is what the differences show." in text(report)


@jax.custom_vjp
def square(x):
    return x**2


square.defvjp(lambda x: (x**2, x), lambda x, g: (3 * x * g,))


def test_a_wrong_rule():
    report = metagrad.check(
        metagradient(lambda w, z, x: w - z * square(w) * x, wrt=("meta", "state")), START, 0.1, DATA
    )
    assert report.verdict == "disagrees" and "custom_vjp of square (" in text(report)
    for direction, without in zip(report.directions, report.without_cuts):
        np.testing.assert_allclose(direction.estimate, without, rtol=1e-7)
        assert direction.verdict == "disagrees"


def test_a_rule_that_is_right():
    right = jax.custom_vjp(lambda x: x**2)
    right.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))
    report = metagrad.check(metagradient(lambda w, z, x: w - z * right(w) * x), START, 0.1, DATA)
    assert report.verdict == "agrees" and len(report.cuts) == 1


def test_a_metagradient_that_is_wrong_without_a_cut(monkeypatch, smooth):
    right = Metagradient.__call__
    wrong = lambda self, *a: (r := right(self, *a))._replace(
        grad=jax.tree.map(lambda g: 1.01 * g, r.grad)
    )
    monkeypatch.setattr(Metagradient, "__call__", wrong)
    report = metagrad.check(smooth, START, META, DATA)
    assert report.verdict == "disagrees" and report.cuts == ()
    assert "No stop_gradient and no custom rule is on the way" in text(report)
    np.testing.assert_allclose(report.relative_error, 0.01 / 1.01, rtol=1e-3)


# --- Bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"directions": 0}, ValueError, "directions=0 is not a number of directions"),
        ({"x64": "yes"}, ValueError, "x64='yes' is none of None, True and False"),
        ({"leaf": 3}, TypeError, "leaf=3 is not a path"),
        ({"leaf": "meta['lr']"}, ValueError, r"There are: meta\['rate'\], meta\['weight'\]"),
        ({"leaf": "state"}, ValueError, r"leaf='state' is no float leaf of what wrt names"),
        ({"leaf": "met"}, ValueError, "leaf='met' is no float leaf"),
        ({"index": 1}, ValueError, "index=1 is an index into a leaf: name the leaf too"),
        ({"leaf": "meta", "index": 0}, ValueError, "index=0 needs one leaf, and leaf='meta' has"),
        (
            {"leaf": "meta['weight']", "index": 5},
            ValueError,
            r"index=5 is no index into meta\['weight'\], of shape \(2,\)",
        ),
        (
            {"leaf": "meta['weight']", "index": slice(2, 2)},
            ValueError,
            r"chooses no entry of meta\['weight'\]",
        ),
        ({"step_sizes": [1e-3]}, ValueError, "must be at least four different positive numbers"),
        ({"step_sizes": [1, 2, 3, -4]}, ValueError, "must be at least four different positive"),
    ],
)
def test_options(smooth, options, error, message):
    with pytest.raises(error, match=message):
        metagrad.check(smooth, START, META, DATA, x64=options.pop("x64", False), **options)


def test_a_leaf_that_is_not_floating_point():
    mg = metagradient(lambda s, z, x: {**s, "w": s["w"] * z}, lambda s: squares(s["w"]), "state")
    with pytest.raises(ValueError, match=r"leaf=\"state\['n'\]\" is int32, and only float leaves"):
        metagrad.check(mg, {"w": START, "n": 1}, 0.1, DATA, leaf="state['n']", x64=False)


def test_what_is_not_a_metagradient(smooth):
    with pytest.raises(TypeError, match=r"takes a metagradient, train_step.metagradient\(outer\)"):
        metagrad.check(metagrad.compile(descend), START, META, DATA)


def test_a_vector_of_queries():
    step = metagrad.compile(lambda w, z, x: w - z * w * x)
    mg = step.metagradient(lambda w: w**2)
    arguments = jnp.ones(2), 0.1, jnp.linspace(0.5, 1, 3)
    with pytest.raises(ValueError, match=r"`<lambda>` returns a vector of 2. Check one query at a"):
        metagrad.check(mg, *arguments)
    assert metagrad.check(step.metagradient(lambda w: w[1] ** 2), *arguments).verdict == "agrees"


def test_arguments_without_values(smooth):
    shape = jax.ShapeDtypeStruct((3, 2), jnp.float32)
    with pytest.raises(TypeError, match=r"batches has no value .* ShapeDtypeStruct"):
        metagrad.check(smooth, START, META, shape)
    with pytest.raises(TypeError, match=r"state has no value .* outside of jax.jit"):
        jax.jit(lambda w: metagrad.check(smooth, w, META, DATA))(START)


def test_a_value_or_a_gradient_that_is_not_finite():
    infinite = metagradient(lambda w, z, x: w / (z - z), check_nans=False)
    with pytest.raises(FloatingPointError, match="the metagradient has a NaN or infinity in the"):
        metagrad.check(infinite, START, 0.1, DATA)
    flat = metagradient(
        lambda w, z, x: w * z, lambda w: squares(w) + jnp.log(-1.0), check_nans=False
    )
    with pytest.raises(FloatingPointError, match="the run's value is nan at these arguments"):
        metagrad.check(flat, START, 0.1, DATA)
