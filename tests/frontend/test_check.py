"""`metagrad.check`: what it says of right and wrong metagradients, and of runs with kinks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metagrad
from metagrad.api.metagradient import Metagradient

START = jnp.array([1.0, 2.0])
DATA = jnp.linspace(0.5, 1.5, 6).reshape(3, 2)


def descend(w, z, x):
    """One step on a smooth loss."""
    return w - z["rate"] * metagrad.grad(lambda w: jnp.sum(z["weight"] * jnp.cosh(w * x)))(w)


META = {"rate": 0.1, "weight": jnp.array([1.0, 0.5])}


def squares(w):
    return jnp.sum(w**2)


def metagradient(step=descend, outer=squares, wrt="meta", **options):
    return metagrad.compile(step).metagradient(outer, wrt, **options)


@pytest.fixture(scope="module")
def smooth():
    """One metagradient for all tests that look at options: it compiles once for each precision."""
    return metagradient()


def text(report):
    """The report in one line."""
    return " ".join(str(report).split())


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


# --- Runs that are not smooth ---------------------------------------------------------------------


def network(activation, stopped=False):
    """12 steps on a network of 16 units: a metagradient and its arguments."""
    random = np.random.default_rng(4)
    normal = lambda *shape: random.normal(size=shape).astype(np.float32)
    params = {"a": normal(8, 16) / 3, "b": normal(16, 16) / 3, "c": normal(16) / 4}
    x, held_out = normal(12, 8, 8), normal(64, 8)
    model = lambda p, x: activation(activation(x @ p["a"]) @ p["b"]) @ p["c"]
    target = lambda x: jnp.sin(3 * x.sum(-1))

    def step(p, z, x):
        loss = lambda p: jnp.mean(z["weight"] * (model(p, x) - target(x)) ** 2)
        rate = jax.lax.stop_gradient(z["rate"]) if stopped else z["rate"]
        return jax.tree.map(lambda p, g: p - rate * g, p, metagrad.grad(loss)(p))

    outer = lambda p: jnp.mean((model(p, held_out) - target(held_out)) ** 2)
    meta = {"rate": jnp.float32(0.2), "weight": jnp.ones(8)}
    return metagradient(step, outer), (params, meta, x)


@pytest.fixture(scope="module")
def relu():
    return network(jax.nn.relu)


def test_a_relu_network(relu):
    """In f64 the smallest steps stay on one piece, and show the metagradient to be right."""
    mg, arguments = relu
    report = metagrad.check(mg, *arguments)
    assert report.verdict == "not smooth" and report.dtype == "float64"
    assert report.relative_error < 1e-6 and max(d.predicts_to for d in report.directions) < 1e-2
    assert "relu" in {place.kind for place in report.kinks} and report.cuts == ()
    words = text(report)
    assert "is the derivative at this very point" in words and "For descent:" in words
    assert "relu (tests/frontend/test_check.py:" in words
    assert "wrong" not in words and "disagree" not in words


def test_a_relu_network_in_single_precision(relu):
    """No step size is small enough to stay on one piece and large enough for the rounding."""
    mg, arguments = relu
    report = metagrad.check(mg, *arguments, x64=False)
    assert report.verdict == "not smooth" and report.dtype == "float32"
    assert "settle on no number before rounding takes over" in text(report)
    assert "nor to be wrong" in text(report) and "disagree" not in text(report)


def test_the_same_network_with_another_activation():
    mg, arguments = network(jnp.tanh)
    report = metagrad.check(mg, *arguments, directions=2)
    assert report.verdict == "agrees" and report.relative_error < 1e-6


def test_a_stop_in_a_relu_network():
    """Kinks do not hide a stop: the smallest steps settle, on another number."""
    mg, arguments = network(jax.nn.relu, stopped=True)
    report = metagrad.check(mg, *arguments, leaf="meta['rate']")
    assert report.verdict == "disagrees" and len(report.cuts) == 1
    np.testing.assert_allclose(report.directions[0].estimate, report.without_cuts[0], rtol=1e-4)
    single = metagrad.check(mg, *arguments, leaf="meta['rate']", x64=False)
    assert "stop_gradient in step (" in text(single)


def mixed(stopped=False):
    """6 steps of a network whose products are in bfloat16: a metagradient and its arguments."""
    random = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)
    params, x = {"a": normal(4, 8) / 2, "b": normal(8) / 3}, normal(6, 8, 4)
    product = lambda a, b: (a.astype(jnp.bfloat16) @ b.astype(jnp.bfloat16)).astype(jnp.float32)
    error = lambda p, x: product(jnp.tanh(product(x, p["a"])), p["b"]) - jnp.sin(x.sum(-1))

    def step(p, z, x):
        loss = lambda p: jnp.mean(jax.nn.softplus(z["weight"]) * error(p, x) ** 2)
        rate = jax.lax.stop_gradient(z["rate"]) if stopped else z["rate"]
        return jax.tree.map(lambda p, g: p - rate * g, p, metagrad.grad(loss)(p))

    mg = metagradient(step, lambda p: jnp.mean(error(p, x[0]) ** 2))
    return mg, params, {"rate": jnp.float32(0.1), "weight": jnp.zeros(8)}, x


def test_products_in_bfloat16():
    """A staircase: small steps show the stairs, and large ones the slope over many of them."""
    report = metagrad.check(*mixed(), leaf="meta['rate']")
    assert report.verdict == "not smooth" and report.kinks == report.cuts == ()
    assert {place.kind for place in report.narrow} == {"a conversion to bfloat16"}
    words = text(report)
    assert "which makes it a staircase" in words
    assert "a conversion to bfloat16 (tests/frontend/test_check.py:" in words
    assert "Over large steps the differences show the metagradient: for step sizes from" in words
    assert "make the products in float32" in words
    assert "relu" not in words and "diverges" not in words
    (direction,) = report.directions
    np.testing.assert_allclose(direction.differences[0], direction.metagradient, rtol=0.05)


def test_a_stop_beside_products_in_bfloat16():
    words = text(metagrad.check(*mixed(stopped=True), leaf="meta['rate']"))
    assert "do not show the metagradient, but JAX's derivative with the cuts taken out" in words
    assert "stop_gradient in step (" in words


def test_a_stair_that_is_wider_than_the_small_steps():
    """On it the differences settle on zero, which is no evidence."""
    step = lambda w, z, x: w - z.astype(jnp.bfloat16).astype(w.dtype) * jnp.sin(w) * x
    report = metagrad.check(metagradient(step), START, jnp.float32(0.1), DATA)
    assert report.directions[0].estimate == 0 and report.directions[0].metagradient != 0
    assert report.verdict == "not smooth" and "staircase" in text(report)


def test_a_kink_at_the_very_point():
    step = lambda w, z, x: w - jax.nn.relu(z - 0.125) * x
    report = metagrad.check(metagradient(step), START, jnp.array(0.125), DATA)
    assert report.verdict == "not smooth" and report.directions[0].kink != 0
    assert "The run has a kink at this very point" in text(report)


def test_steps_that_only_look_like_a_slope():
    """Rounding to a grid finer than the differences: JAX has the derivative zero, as it should."""
    step = lambda w, z, x: w - jnp.round(z * 2.0**40) / 2.0**40 * x
    report = metagrad.check(metagradient(step), START, 0.1, DATA)
    assert report.verdict == "not smooth" and "round (tests/" in text(report)


def test_second_moments_that_leave_their_domain():
    step = lambda s, z, x: {"w": s["w"] - z * x / jnp.sqrt(s["nu"]), "nu": s["nu"]}
    mg = metagradient(step, lambda s: squares(s["w"]), "state")
    state = {"w": START, "nu": jnp.array([1.0, 1e-3])}
    report = metagrad.check(mg, state, 0.1, DATA)
    assert report.verdict == "agrees" and "The run is not finite at some" in text(report)


def test_leaves_of_zeros():
    """Adam's moments before the first step: its second ones have no square root below zero."""
    optimiser = optax.adam(0.1, eps_root=1e-8)

    def step(s, z, x):
        gradient = metagrad.grad(lambda w: jnp.sum(jnp.cosh(w * x)))(s[0])
        updates, opt = optimiser.update(gradient, s[1])
        return optax.apply_updates(s[0], jax.tree.map(lambda u: z * u, updates)), opt

    mg = metagradient(step, lambda s: squares(s[0]), "state")
    weights = jnp.array([1.0, 2.0, 3.0])
    unused = jnp.pad(DATA, ((0, 0), (0, 1)))  # the third weight has the gradient zero
    state = weights, optimiser.init(weights)
    report = metagrad.check(mg, state, 1.0, unused, directions=2)
    assert report.verdict == "agrees" and report.relative_error < 1e-6
    assert report.fixed == ("state[1][0].nu",)
    assert report.moved == ("state[0]", "state[1][0].mu")  # the first moments are zero as well
    assert text(report).startswith(
        "metagrad.check: agrees, for state without state[1][0].nu (it holds zeros and did not move:"
    )
    first = metagrad.check(mg, state, 1.0, unused, directions=1, leaf="state[1][0].mu")
    assert first.verdict == "agrees" and first.fixed == ()


def dead_feature(wrt, moments=(0.0, 0.0, 0.0)):
    """Adam-like steps with a stop at the weights' logits, in a run whose third feature is dead.

    So the third of the second moments stays at zero, and has no square root below.
    """

    def step(s, z, x):
        weight = jax.lax.stop_gradient(jax.nn.softplus(z))
        g = metagrad.grad(lambda w: jnp.mean(weight * (x @ w - 1) ** 2))(s["w"])
        nu = 0.9 * s["nu"] + 0.1 * g**2
        return {"w": s["w"] - 0.01 * g / jnp.sqrt(nu + 1e-14), "nu": nu}

    x = jax.random.normal(jax.random.key(0), (3, 4, 3)) * jnp.array([1.0, 1.0, 0.0])
    state = {"w": jnp.full(3, 0.3), "nu": jnp.array(moments)}
    mg = metagradient(step, lambda s: jnp.sum((s["w"] - 1) ** 2), wrt)
    return metagrad.check(mg, state, jnp.zeros(4), x, directions=2)


@pytest.mark.parametrize("wrt", ["meta", ("meta", "state")])
def test_a_leaf_of_zeros_that_can_move_does(wrt):
    """The logits are zero as well, and they are where the derivative is wrong."""
    report = dead_feature(wrt)
    assert report.verdict == "disagrees" and "meta" in report.moved
    assert report.fixed == (() if wrt == "meta" else ("state['nu']",))
    assert "stop_gradient in step (" in text(report)


def test_a_leaf_with_one_zero():
    """Moments after some steps: the gradient's own direction does not move the dead one."""
    report = dead_feature(("meta", "state"), (0.1, 0.2, 0.0))
    assert report.verdict == "disagrees" and report.fixed == ("state['nu']",)


def test_directions_along_which_nothing_is_finite():
    """The gradient's own direction leaves `a` alone, and is not enough to say that all agrees."""
    step = lambda s, z, x: {**s, "w": s["w"] * (1 - z * x) + rooted(-((s["a"] - 1) ** 2))}
    state = {"a": jnp.ones(1), "w": START}
    mg = metagradient(step, lambda s: squares(s["w"]), "state")
    report = metagrad.check(mg, state, 0.1, DATA, directions=1)
    assert [d.verdict for d in report.directions] == ["agrees", "cannot tell"]
    assert report.verdict == "cannot tell" and report.fixed == ()
    assert "The run is finite at no step along random 1." in text(report)


def test_a_tree_of_which_nothing_moved_is_not_said_to_agree():
    """A root of the metaparameter, which is zero."""
    step = lambda s, z, x: s - (0.1 + 0 * jnp.sqrt(z)) * s * x
    mg = metagradient(step, wrt=("meta", "state"), check_nans=False)
    root = metagrad.compile(lambda s, z, x: s - 0.1 * s * x + rooted(z)).metagradient(
        squares, ("meta", "state")
    )
    report = metagrad.check(root, START, jnp.zeros(2), DATA, directions=1)
    assert report.verdict == "agrees" and report.of == "state"
    assert report.fixed == ("meta",) and report.moved == ("state",)
    assert text(report).startswith("metagrad.check: agrees, for state without meta (it holds zeros")
    assert "with respect to state is within" in text(report)
    with pytest.raises(FloatingPointError, match="the gradient of meta"):
        metagrad.check(mg, START, jnp.zeros(2), DATA)


@jax.custom_jvp
def rooted(z):
    """The root of z, with a finite derivative at zero."""
    return jnp.sqrt(z)


@rooted.defjvp
def _(primals, tangents):
    return rooted(primals[0]), 0 * tangents[0]


def test_leaves_of_which_two_together_cannot_move():
    """Their product has no root. One of them moves, and the other stays."""
    step = lambda s, z, x: {**s, "w": s["w"] - 0.1 * x + rooted(jnp.sum(s["a"] * s["b"]))}
    state = {"a": jnp.zeros(1), "b": jnp.zeros(1), "w": START}
    report = metagrad.check(
        metagradient(step, lambda s: squares(s["w"]), "state"), state, 0.1, DATA, directions=1
    )
    assert report.verdict == "agrees" and report.fixed == ("state['b']",)
    assert report.moved == ("state['a']", "state['w']")


def test_a_run_that_is_finite_here_only():
    step = lambda s, z, x: {**s, "w": s["w"] - z * x * jnp.sqrt(s["nu"] + 1e-20)}
    mg = metagradient(step, lambda s: squares(s["w"]), "state")
    state = {"w": START, "nu": 0.0}
    report = metagrad.check(mg, state, 0.1, DATA, leaf="state['nu']")
    assert report.verdict == "cannot tell" and report.fixed == ()
    assert "The run is finite at no step away from these arguments." in text(report)


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
