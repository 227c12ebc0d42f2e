"""`metagrad.check` of runs with kinks, stairs and places where nothing is finite."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checked import DATA, START, metagradient, squares, text

import metagrad


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
    assert "relu (tests/frontend/test_check_not_smooth.py:" in words
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
    assert "a conversion to bfloat16 (tests/frontend/test_check_not_smooth.py:" in words
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
