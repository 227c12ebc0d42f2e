"""Inner gradients below the top level of the step.

They stand in loops, in branches, in each other and under transformations.
"""

import jax
import jax.numpy as jnp
import pytest
import runs
from jax import lax
from unrolled import assert_exact, who

import metagrad
from metagrad import LazyKary, StoreAll

EVERYTHING = ("meta", "state", "batches")
SCHEDULE = LazyKary(2)


def check(gradient, *, wrt=EVERYTHING, T=4, schedule=SCHEDULE):
    step = runs.sgd(gradient)
    return assert_exact(
        step,
        runs.outer,
        wrt,
        {"params": runs.params()},
        runs.meta(),
        runs.data(T),
        schedule=schedule,
    )[1]


def in_parts(count, *trees):
    return jax.tree.map(lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:]), trees)


def with_weights(z, weights):
    return {"weights": weights, "rate": z["rate"]}


# --- Microbatches ---------------------------------------------------------------------------------


def accumulated(p, z, batch, loss=runs.loss, count=2):
    """The mean of the microbatches' gradients."""

    def accumulate(total, part):
        small, weights = part
        return jax.tree.map(
            jnp.add, total, metagrad.grad(loss)(p, with_weights(z, weights), small)
        ), None

    total = lax.scan(
        accumulate, jax.tree.map(jnp.zeros_like, p), in_parts(count, batch, z["weights"])
    )[0]
    return jax.tree.map(lambda g: g / count, total)


def test_accumulation_over_microbatches():
    lowered = check(accumulated)
    assert who(lowered) == ["nested-mixed", "jax", "enzyme"]
    assert "loss (runs.py:" in lowered.explain() and "forward over reverse" in lowered.explain()


PLACES = {
    "scan": lambda g, w: lax.scan(
        lambda total, scale: (total + g(w * scale), None), 0 * w, jnp.arange(1.0, 3.0)
    )[0],
    "branch": lambda g, w: lax.cond(w[0] < 5, g, lambda w: w, w),
    "gradient": lambda g, w: metagrad.grad(lambda w: jnp.sum(g(w) ** 3))(w),
    "checkpoint": lambda g, w: jax.checkpoint(g)(w),
    "jvp": lambda g, w: jax.jvp(g, (w,), (jnp.cos(w),))[1],
}


@pytest.mark.parametrize("place", PLACES)
def test_aux_that_is_no_float(place):
    """Counts of batch statistics, keys of dropout, masks of right answers."""

    def step(w, z, x):
        loss = lambda w: (jnp.sum((w * x - z) ** 2), (w > x, jnp.argmax(w), jax.random.key(0)))
        return w - 0.1 * PLACES[place](lambda w: metagrad.grad(loss, has_aux=True)(w)[0], w)

    assert_exact(
        metagrad.compile(step),
        jnp.sum,
        EVERYTHING,
        jnp.asarray([0.3, -0.7]),
        jnp.asarray(0.5),
        jnp.arange(6.0).reshape(3, 2),
    )


def test_accumulation_with_value_and_aux():
    """The scan carries the loss's value, its aux and the gradient; the step reads all three."""

    def loss(p, z, batch):
        residual = runs.predict(p, batch["x"]) - batch["y"]
        return jnp.mean(z["weights"] * residual**2), jnp.max(jnp.abs(residual))

    def gradient(p, z, batch):
        def accumulate(carry, part):
            small, weights = part
            (value, largest), g = metagrad.value_and_grad(loss, has_aux=True)(
                p, with_weights(z, weights), small
            )
            return (
                carry[0] + value,
                jnp.maximum(carry[1], largest),
                jax.tree.map(jnp.add, carry[2], g),
            ), value

        start = jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, p)
        (value, largest, g), values = lax.scan(accumulate, start, in_parts(2, batch, z["weights"]))
        return jax.tree.map(lambda g: g / (1 + value**2 + largest + jnp.var(values)), g)

    assert who(check(gradient))[0] == "nested-mixed"


def test_accumulation_in_scans_of_scans():
    def gradient(p, z, batch):
        outer_parts = in_parts(2, batch, z["weights"])
        inner = lambda part: accumulated(p, with_weights(z, part[1]), part[0])
        return jax.tree.map(lambda g: jnp.sum(g, 0), lax.map(inner, outer_parts))

    assert who(check(gradient))[0] == "nested-mixed"


def test_a_rule_that_is_no_derivative_is_not_taken_in_mixed_mode():
    """Gradients clipped inside the model: the Jacobian of such a gradient is not symmetric."""

    @jax.custom_vjp
    def clipped(x):
        return x

    clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -0.05, 0.05) + 0.1 * g**2,))

    def loss(p, z, batch):
        return jnp.mean(z["weights"] * (clipped(runs.predict(p, batch["x"])) - batch["y"]) ** 2)

    assert who(check(lambda p, z, batch: accumulated(p, z, batch, loss)))[0] == "nested-jax"


def test_memory_is_that_of_one_microbatch():
    """Eight times as many microbatches of the same size do not need more memory for activations.

    They do where JAX differentiates its own gradient.
    """
    width, examples, layers = 64, 128, 4

    def loss(p, x):
        for w in p:
            x = jnp.tanh(x @ w)
        return jnp.mean(x**2)

    def temporaries(grad, count, ad="auto"):
        def step(p, rate, batch):
            total = lax.scan(
                lambda g, x: (jax.tree.map(jnp.add, g, grad(loss)(p, x)), None),
                jax.tree.map(jnp.zeros_like, p),
                batch,
            )[0]
            return jax.tree.map(lambda p, g: p - rate * g, p, total)

        p = [jax.ShapeDtypeStruct((width, width), jnp.float32)] * layers
        batches = jax.ShapeDtypeStruct((2, count, examples, width), jnp.float32)
        mg = metagrad.compile(step, ad=ad).metagradient(
            lambda p: jnp.sum(p[0] ** 2), schedule=StoreAll()
        )
        return (
            mg.lower(p, jax.ShapeDtypeStruct((), jnp.float32), batches)
            .compile()
            .memory_analysis()
            .temp_size_in_bytes
        )

    one_activation = examples * width * 4
    grown = temporaries(metagrad.grad, 16) - temporaries(metagrad.grad, 2)
    assert (
        grown < 14 * 2 * one_activation
    )  # the microbatches themselves, and no layer's activations
    assert (
        temporaries(jax.grad, 16, "jax") - temporaries(jax.grad, 2, "jax")
        > 14 * layers * one_activation
    )


# --- Loops and branches ---------------------------------------------------------------------------


def test_an_inner_training_loop():
    """Parameters that go through the loop: each turn's are a residual of its own."""

    def gradient(p, z, batch):
        trained = lax.fori_loop(
            0,
            3,
            lambda _, q: jax.tree.map(
                lambda q, g: q - 0.1 * g, q, metagrad.grad(runs.loss)(q, z, batch)
            ),
            p,
        )
        return jax.tree.map(jnp.subtract, p, trained)

    assert who(check(gradient))[0] == "nested-mixed"


def test_asked_of_enzyme_it_is_refused_with_the_users_line():
    with pytest.raises(
        NotImplementedError,
        match=r"ad='enzyme'(.|\n)*an inner gradient in a loop, a branch or another function "
        r"\(.*test_nested_gradients.py:\d+",
    ):
        runs.sgd(accumulated, ad="enzyme").metagradient(runs.outer).lower(
            {"params": runs.params()}, runs.meta(), runs.data(2)
        )


def test_in_a_branch_and_at_the_top():
    def gradient(p, z, batch):
        first = metagrad.grad(runs.loss)(p, z, batch)
        again = lax.cond(
            jnp.sum(batch["y"]) > 0,
            metagrad.grad(runs.loss),
            lambda p, z, batch: jax.tree.map(jnp.zeros_like, p),
            p,
            z,
            batch,
        )
        return jax.tree.map(lambda a, b: a + 0.5 * b, first, again)

    assert who(check(gradient))[:2] == ["enzyme", "nested-mixed"]


# --- Under transformations ------------------------------------------------------------------------


def one(p, weight, x, y):
    return weight * (runs.predict(p, x) - y) ** 2


@pytest.mark.parametrize(
    "axes", [(None, 0, 0, 0), (0, None, 0, 0)], ids=["shared parameters", "own parameters"]
)
def test_per_example_gradients_are_one_gradient_of_the_batched_loss(axes):
    def gradient(p, z, batch):
        weight = z["weights"] if axes[1] == 0 else z["weights"][0]
        many = (
            p
            if axes[0] is None
            else jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, -leaf, leaf / 2]), p)
        )
        per_example = jax.vmap(metagrad.grad(one), in_axes=axes)(
            many, weight, batch["x"], batch["y"]
        )
        norms = jnp.sqrt(
            sum(jnp.sum(g**2, axis=range(1, g.ndim)) for g in jax.tree.leaves(per_example))
        )
        return jax.tree.map(
            lambda g: jnp.tensordot(jnp.minimum(1.0, 0.7 / norms), g, 1), per_example
        )

    assert who(check(gradient)) == ["enzyme"] * 3


def test_vmap_in_a_scan_in_a_vmap():
    def gradient(p, z, batch):
        def of(scale):
            rows = lambda row: jax.vmap(metagrad.grad(one), in_axes=(None, None, 0, 0))(
                p, scale, *row
            )
            return jax.tree.map(
                lambda g: jnp.sum(g, (0, 1)), lax.map(rows, in_parts(2, batch["x"], batch["y"]))
            )

        return jax.tree.map(lambda g: jnp.mean(g, 0), jax.vmap(of)(z["weights"]))

    assert who(check(gradient))[0] == "nested-mixed"


def test_vmap_with_values_that_depend_on_each_other():
    """With a collective over the mapped axis the examples' losses are not independent.

    JAX's expansion is used.
    """

    def gradient(p, z, batch):
        def coupled(p, x, y):
            error = (runs.predict(p, x) - y) ** 2
            return error / (1 + lax.pmean(error, "examples"))

        per_example = jax.vmap(metagrad.grad(coupled), in_axes=(None, 0, 0), axis_name="examples")(
            p, batch["x"], batch["y"]
        )
        return jax.tree.map(lambda g: jnp.mean(g, 0) * z["weights"][0], per_example)

    check(gradient)


TRANSFORMED = {
    "grad": lambda p, z, batch: jax.grad(
        lambda p: jnp.sum(metagrad.grad(runs.loss)(p, z, batch)["w2"] ** 2)
    )(p),
    "jvp": lambda p, z, batch: jax.jvp(
        lambda p: metagrad.grad(runs.loss)(p, z, batch), (p,), (jax.tree.map(jnp.cos, p),)
    )[1],
    "vjp in everything": lambda p, z, batch: jax.vjp(metagrad.grad(runs.loss), p, z, batch)[1](p)[
        0
    ],
    "linearize": lambda p, z, batch: jax.linearize(
        lambda p: metagrad.grad(runs.loss)(p, z, batch), p
    )[1](p),
    "checkpoint": jax.checkpoint(lambda p, z, batch: metagrad.grad(runs.loss)(p, z, batch)),
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_transformed_by_the_user(name):
    """The metagradient of what JAX's transformations make of the gradient, up to third order."""
    check(TRANSFORMED[name], T=3)


# --- In each other --------------------------------------------------------------------------------


def adapted(p, z, batch):
    """The loss after a step of gradient descent.

    This is model-agnostic meta-learning (Finn et al. 2017, arXiv 1703.03400).
    """
    g = metagrad.grad(runs.loss)(p, z, batch)
    return runs.loss(jax.tree.map(lambda p, g: p - 0.1 * g, p, g), z, batch)


def adapted_in_a_loop(p, z, batch):
    descend = lambda q, _: (
        jax.tree.map(lambda q, g: q - 0.1 * g, q, metagrad.grad(runs.loss)(q, z, batch)),
        None,
    )
    return runs.loss(lax.scan(descend, p, None, length=2)[0], z, batch)


@pytest.mark.parametrize("loss", [adapted, adapted_in_a_loop])
@pytest.mark.parametrize("outermost", [metagrad.grad, jax.grad])
def test_gradient_of_a_loss_with_a_gradient_in_it(loss, outermost):
    check(outermost(loss), T=3)
