"""Training steps of every kind.

Optimisers, several gradients, gradients under transformations, no `metagrad.grad` at all.
"""

import jax
import jax.numpy as jnp
import optax
import pytest
import runs
from small_steps import EVERYTHING, SCHEDULE, check, plain
from unrolled import assert_exact, who

import metagrad

OPTIMISERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "clipped by norm": optax.chain(optax.clip_by_global_norm(0.3), optax.sgd(0.1)),
    "rmsprop": optax.rmsprop(0.05, eps=1e-6),
    "adamw": optax.adamw(0.05, eps_root=1e-8, weight_decay=0.1),
    "warm-up and decay": optax.adam(
        optax.warmup_cosine_decay_schedule(0.0, 0.1, 2, 5), eps_root=1e-8
    ),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimiser(name):
    step, state = runs.with_optax(OPTIMISERS[name])
    _, lowered = check(step, state)
    assert who(lowered)[0] == "enzyme"


@pytest.mark.parametrize("ad", ["auto", "jax"])
def test_no_derivative_through_signs_meets_an_infinite_one(ad):
    """No 0 times infinity.

    Lion takes the sign of what adaptive clipping scales, and clipping has a square root at 0 where
    the parameters are 0.
    """
    step, state = runs.with_optax(
        optax.chain(optax.adaptive_grad_clip(0.1), optax.scale_by_lion()), ad=ad
    )
    state["params"] = jax.tree.map(jnp.zeros_like, state["params"])
    result, _ = check(step, state, T=3)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(result.grad[0]))


def test_sharpness_aware_minimisation_has_two_gradients():
    """The second is taken where the first points to: its operands depend on the first's result."""

    def gradient(p, z, batch):
        first = metagrad.grad(runs.loss)(p, z, batch)
        norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(first)))
        return metagrad.grad(runs.loss)(
            jax.tree.map(lambda p, g: p + 0.1 * g / norm, p, first), z, batch
        )

    _, lowered = plain(gradient)
    assert who(lowered)[:2] == ["enzyme", "enzyme"]
    assert lowered.ir("cut").count("func.func private @loss_") == 2


def test_three_gradients_in_a_chain():
    def gradient(p, z, batch):
        for _ in range(2):
            p = jax.tree.map(lambda p, g: p - 0.1 * g, p, metagrad.grad(runs.loss)(p, z, batch))
        return metagrad.grad(runs.loss)(p, z, batch)

    plain(gradient)


def test_gradients_of_several_losses_added():
    def other(p, z):
        return jnp.sum(jnp.cos(p["w1"]) ** 2) * z["rate"] + jnp.sum(p["w2"] ** 4)

    def gradient(p, z, batch):
        return jax.tree.map(
            jnp.add, metagrad.grad(runs.loss)(p, z, batch), metagrad.grad(other)(p, z)
        )

    plain(gradient)


def test_value_enters_the_update():
    """Polyak's step length: the loss over the squared norm of its gradient."""

    def gradient(p, z, batch):
        value, g = metagrad.value_and_grad(runs.loss)(p, z, batch)
        length = value / sum(jnp.sum(g**2) for g in jax.tree.leaves(g))
        return jax.tree.map(lambda g: length * g, g)

    plain(gradient)


def test_gradient_in_two_arguments_at_once():
    def energy(w, v, z, batch):
        return runs.loss({"w1": w, "b1": v[0], "w2": v[1]}, z, batch)

    def gradient(p, z, batch):
        v, w = metagrad.grad(energy, argnums=(1, 0))(p["w1"], (p["b1"], p["w2"]), z, batch)
        return {"w1": w, "b1": v[0], "w2": v[1]}

    plain(gradient)


def test_gradient_in_the_metaparameters_too():
    def gradient(p, z, batch):
        by_params, by_meta = metagrad.grad(runs.loss, argnums=(0, 1))(p, z, batch)
        return jax.tree.map(lambda g: g * jnp.mean(by_meta["weights"] ** 2), by_params)

    plain(gradient)


def test_gradient_by_jax_in_metaparameters_with_an_integer():
    """The derivative in the integer, a float0, is in the step's jaxpr."""

    @metagrad.compile
    def step(s, z, batch):
        loss = lambda w, z: jnp.sum((w * z["scale"] - batch["x"]) ** z["power"])
        g, by_meta = jax.grad(loss, argnums=(0, 1), allow_int=True)(s, z)
        assert by_meta["power"].dtype == jax.dtypes.float0
        return s - 0.1 * g * by_meta["scale"]

    meta = {"scale": jnp.asarray(0.7), "power": jnp.asarray([2, 3])}
    batches = {"x": jnp.linspace(-1.0, 1.0, 3)}
    assert_exact(step, jnp.sum, EVERYTHING, jnp.asarray([0.4, -0.3]), meta, batches)


def test_argument_by_keyword():
    plain(lambda p, z, batch: metagrad.grad(runs.loss)(p, batch=batch, z=z))


def test_loss_that_closes_over_its_data():
    """Derivatives flow to what the loss closes over, as in JAX."""
    plain(lambda p, z, batch: metagrad.grad(lambda p: runs.loss(p, z, batch))(p))


def test_step_without_metagrad_grad():
    """JAX's expanded gradient is differentiated as it stands."""
    _, lowered = plain(jax.grad(runs.loss))
    assert who(lowered)[0] == "expanded" and "no metagrad.grad in the step" in lowered.explain()


def test_step_without_any_gradient():
    """A dynamical system: nothing is minimised."""

    @metagrad.compile
    def step(s, z, force):
        x, v = s
        v = 0.9 * v + 0.1 * (jnp.sin(z * x) + force)
        return x + v, v

    start = jnp.linspace(-1.0, 1.0, 3), jnp.zeros(3)
    assert_exact(
        step,
        lambda s: jnp.sum(s[0] ** 2),
        EVERYTHING,
        start,
        jnp.linspace(1.0, 2.0, 3),
        jnp.ones((6, 3)),
        schedule=SCHEDULE,
    )


def test_both_grads_in_one_step():
    def gradient(p, z, batch):
        g = jax.grad(runs.loss)(p, z, batch)
        return metagrad.grad(runs.loss)(jax.tree.map(lambda p, g: p - 0.1 * g, p, g), z, batch)

    plain(gradient)


def test_inner_jit():
    """A jitted function inside the step, gradient and all, is looked through."""
    _, lowered = plain(jax.jit(lambda p, z, batch: metagrad.grad(jax.jit(runs.loss))(p, z, batch)))
    assert who(lowered)[0] == "enzyme" and len(lowered.decisions) == 3


def test_jitted_step():
    step = metagrad.compile(jax.jit(lambda s, z, batch: runs.sgd()(s, z, batch)))
    _, lowered = check(step, {"params": runs.params()})
    assert len(lowered.decisions) == 3


def test_jitted_function_used_before_outside():
    """JAX caches traces of jitted functions; one made outside must not be taken for ours."""
    gradient = jax.jit(metagrad.grad(runs.loss))
    gradient(runs.params(), runs.meta(), jax.tree.map(lambda leaf: leaf[0], runs.data(1)))
    _, lowered = plain(gradient)
    assert len(lowered.decisions) == 3
    gradient(runs.params(), runs.meta(), jax.tree.map(lambda leaf: leaf[0], runs.data(1)))


@pytest.mark.filterwarnings("ignore:the step .* never reads")
def test_hessian_in_the_step():
    """A damped Newton step: a gradient of a gradient."""

    def loss(p, z, batch):
        return jnp.mean(z["weights"] * (jnp.tanh(batch["x"] @ p) - batch["y"]) ** 2)

    @metagrad.compile
    def step(p, z, batch):
        g = metagrad.grad(loss)(p, z, batch)
        hessian = jax.jacfwd(metagrad.grad(loss))(p, z, batch)
        return p - jnp.linalg.inv(hessian @ hessian + jnp.eye(3)) @ g

    check(step, jnp.ones(3) / 3, outer=lambda p: jnp.sum(p**2), T=3)


@pytest.mark.filterwarnings("ignore:the step .* never reads")
def test_a_gradient_that_nothing_needs():
    """Its value is only looked at: no cotangent flows, and no gradient is taken."""

    @metagrad.compile
    def step(s, z, batch):
        metagrad.grad(runs.loss)(s["params"], z, batch)
        return {"params": jax.tree.map(lambda p: p * jnp.exp(z["rate"]), s["params"])}

    _, lowered = check(step, {"params": runs.params()}, wrt=("meta", "state"))
    assert who(lowered) == ["expanded", "enzyme", "enzyme"]


@pytest.mark.parametrize("wrt", ["meta", "state"])
def test_zero_where_nothing_is_reached(wrt):
    """The outer function ignores the state."""
    result, _ = check(
        runs.sgd(), {"params": runs.params()}, wrt=wrt, outer=lambda s: jnp.asarray(2.0)
    )
    assert not any(leaf.any() for leaf in jax.tree.leaves(result.grad))


@pytest.mark.filterwarnings("ignore:the step .* never reads")
def test_batches_are_not_reached():
    step = metagrad.compile(lambda s, z, batch: jnp.sin(s) * z["rate"])
    check(
        step,
        jnp.ones(3),
        outer=jnp.sum,
        wrt=("batches", "meta"),
        batches={"t": jnp.arange(5), "x": jnp.ones((5, 2))},
    )
