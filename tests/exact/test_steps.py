"""Training steps of every kind.

Optimisers, several gradients, gradients under transformations, no `metagrad.grad` at all.
"""

import operator

import jax
import jax.numpy as jnp
import optax
import pytest
import runs
from jax import lax
from unrolled import assert_exact, who

import metagrad
from metagrad import LazyKary

EVERYTHING = ("meta", "state", "batches")
SCHEDULE = LazyKary(2)


def check(step, state, *, T=5, wrt=EVERYTHING, outer=runs.outer, batches=None, **options):
    batches = runs.data(T) if batches is None else batches
    return assert_exact(step, outer, wrt, state, runs.meta(), batches, schedule=SCHEDULE, **options)


def plain(gradient):
    return check(runs.sgd(gradient), {"params": runs.params()})


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


# --- What the losses and steps return beside the gradient -----------------------------------------


def normalised(p, statistics, x):
    """A layer with batch normalisation; gives also the running statistics."""
    h = x @ p["w1"] + p["b1"]
    mean, var = jnp.mean(h, 0), jnp.var(h, 0)
    running = {
        "mean": 0.9 * statistics["mean"] + 0.1 * mean,
        "var": 0.9 * statistics["var"] + 0.1 * var,
    }
    return jnp.tanh((h - mean) / jnp.sqrt(var + 1e-3)) @ p["w2"], running


def test_batch_statistics_flow_in_the_state():
    """The loss's aux is the next state's, and the outer function reads it."""

    def loss(p, statistics, z, batch):
        predicted, running = normalised(p, statistics, batch["x"])
        return jnp.mean(z["weights"] * (predicted - batch["y"]) ** 2), running

    @metagrad.compile
    def step(s, z, batch):
        g, running = metagrad.grad(loss, has_aux=True)(s["params"], s["statistics"], z, batch)
        return {
            "params": jax.tree.map(lambda p, g: p - jnp.exp(z["rate"]) * g, s["params"], g),
            "statistics": running,
        }

    def outer(s):
        x = runs.data(1, seed=7)["x"][0]
        h = (x @ s["params"]["w1"] + s["params"]["b1"] - s["statistics"]["mean"]) / jnp.sqrt(
            s["statistics"]["var"] + 1e-3
        )
        return jnp.mean((jnp.tanh(h) @ s["params"]["w2"]) ** 2)

    state = {
        "params": runs.params(),
        "statistics": {"mean": jnp.zeros(runs.WIDTH), "var": jnp.ones(runs.WIDTH)},
    }
    _, lowered = check(step, state, outer=outer)
    assert who(lowered) == ["enzyme"] * 3


def test_aux_of_the_step_is_stacked():
    @metagrad.compile(has_aux=True)
    def step(s, z, batch):
        value, g = metagrad.value_and_grad(runs.loss)(s["params"], z, batch)
        new = {"params": jax.tree.map(lambda p, g: p - jnp.exp(z["rate"]) * g, s["params"], g)}
        return new, {"loss": value, "signs": jnp.sign(g["w2"]).astype(jnp.int8), "name": "step"}

    state, batches = {"params": runs.params()}, runs.data(5)
    result, _ = check(step, state, batches=batches, step_has_aux=True)
    losses = []
    for t in range(5):
        state, aux = step(state, runs.meta(), jax.tree.map(operator.itemgetter(t), batches))
        losses.append(aux["loss"])
    assert jnp.allclose(result.aux["loss"], jnp.stack(losses), rtol=1e-12)
    assert result.aux["signs"].shape == (5, runs.WIDTH) and result.aux["signs"].dtype == jnp.int8
    assert result.aux["name"] == "step"


def test_outer_with_arguments_and_aux():
    def outer(s, held_out, scale):
        error = (runs.predict(s["params"], held_out["x"]) - held_out["y"]) ** 2
        return scale * jnp.mean(error), {"errors": error, "count": jnp.asarray(len(error))}

    held_out = jax.tree.map(lambda leaf: leaf[0], runs.data(1, seed=7))
    arguments = {"params": runs.params()}, runs.meta(), runs.data(4), held_out, 0.5
    result, _ = assert_exact(
        runs.sgd(), outer, EVERYTHING, *arguments, schedule=SCHEDULE, has_aux=True
    )
    assert jnp.allclose(0.5 * jnp.mean(result.value[1]["errors"]), result.value[0], rtol=1e-12)
    assert result.value[1]["count"] == runs.EXAMPLES


RULES = {"enzyme": {}, "jax": {"ad": "jax"}, "jax-mixed": {}}


@pytest.mark.parametrize("rule", RULES)
def test_a_result_that_the_step_does_not_read_has_no_cotangent(rule):
    """Nothing is multiplied by infinity.

    The loss's value and aux have an infinite derivative in the data, its gradient has none.
    """

    def loss(p, z, batch):
        root = jnp.sqrt(jnp.sum(batch["x"] ** 2))
        fitted = jnp.sum(z["weights"]) * sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(p))
        return (jax.checkpoint(jnp.sin)(fitted) if rule == "jax-mixed" else fitted) + root, root

    gradient = lambda p, z, batch: metagrad.grad(loss, has_aux=True)(p, z, batch)[0]
    batches = jax.tree.map(jnp.zeros_like, runs.data(3))
    _, lowered = check(
        runs.sgd(gradient, **RULES[rule]), {"params": runs.params()}, batches=batches
    )
    assert who(lowered)[0] == rule


@pytest.mark.parametrize("ad", ["auto", "jax"])
def test_auxiliary_results_need_no_derivative(ad):
    """The step and the outer function have float results beside what is differentiated.

    One of them comes from an operation that has no derivative in JAX.
    """

    @metagrad.compile(has_aux=True, ad=ad)
    def step(s, z, batch):
        new = {
            "params": jax.tree.map(
                lambda p, g: p - jnp.exp(z["rate"]) * g,
                s["params"],
                metagrad.grad(runs.loss)(s["params"], z, batch),
            )
        }
        doubled = lax.while_loop(
            lambda v: jnp.sum(v) < 10, lambda v: 2 * v, 1 + new["params"]["w2"] ** 2
        )
        return new, {"doubled": doubled, "w2": new["params"]["w2"]}

    def outer(s):
        return runs.outer(s), {
            "w2": 2 * s["params"]["w2"],
            "floor": jnp.floor(
                lax.while_loop(lambda v: v < 10, lambda v: 2 * v, 1 + s["params"]["b1"][0] ** 2)
            ),
        }

    _, lowered = check(
        step, {"params": runs.params()}, outer=outer, step_has_aux=True, has_aux=True
    )
    assert who(lowered)[0] == {"auto": "enzyme", "jax": "jax"}[ad] and set(who(lowered)) == {
        who(lowered)[0]
    }


# --- What metagradients are taken for -------------------------------------------------------------


def test_learning_rate_of_every_step():
    """Metaparameters chosen by a counter in the state."""

    @metagrad.compile
    def step(s, rates, batch):
        g = metagrad.grad(runs.loss)(s["params"], runs.meta(), batch)
        return {
            "params": jax.tree.map(lambda p, g: p - rates[s["t"]] * g, s["params"], g),
            "t": s["t"] + 1,
        }

    rates = jnp.linspace(0.3, 0.1, 6)
    result, _ = assert_exact(
        step,
        runs.outer,
        ("meta", "state"),
        {"params": runs.params(), "t": 0},
        rates,
        runs.data(6),
        schedule=SCHEDULE,
    )
    assert result.grad[0].shape == (6,) and (result.grad[0] != 0).all()


def test_data_as_metaparameter():
    """Poisoning: all steps draw from one data set, the metaparameter; the batches are indices."""

    def loss(p, data, chosen):
        return jnp.mean((runs.predict(p, data["x"][chosen]) - data["y"][chosen]) ** 2)

    @metagrad.compile
    def step(s, data, chosen):
        return {
            "params": jax.tree.map(
                lambda p, g: p - 0.2 * g,
                s["params"],
                metagrad.grad(loss)(s["params"], data, chosen),
            )
        }

    whole = {"x": runs.data(3)["x"].reshape(-1, runs.FEATURES), "y": runs.data(3)["y"].reshape(-1)}
    chosen = jnp.asarray([[0, 1, 2], [3, 4, 5], [0, 0, 6], [7, 2, 11], [10, 9, 8]])
    assert_exact(
        step, runs.outer, "meta", {"params": runs.params()}, whole, chosen, schedule=SCHEDULE
    )


def test_learned_weighting_of_the_loss():
    """A small network that weighs each example by its loss, trained by the metagradient."""

    def loss(p, z, batch):
        errors = (runs.predict(p, batch["x"]) - batch["y"]) ** 2
        weights = jax.nn.sigmoid(jnp.tanh(lax.stop_gradient(errors)[:, None] * z["a"]) @ z["b"])
        return jnp.mean(weights * errors)

    step = metagrad.compile(
        lambda s, z, b: {
            "params": jax.tree.map(
                lambda p, g: p - 0.2 * g, s["params"], metagrad.grad(loss)(s["params"], z, b)
            )
        }
    )
    z = {"a": jnp.linspace(-1.0, 1.0, 3), "b": jnp.ones(3)}
    _, lowered = assert_exact(
        step, runs.outer, EVERYTHING, {"params": runs.params()}, z, runs.data(5), schedule=SCHEDULE
    )
    assert who(lowered) == ["enzyme"] * 3
