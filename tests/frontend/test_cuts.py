"""Which stop_gradients and custom rules `explain()` names: those on the way to the outer value.

Where a stop is named, JAX's derivative differs from that of the run in which the stop is taken out;
where it is not named, they are equal. So each case is a proof of its own expectation.
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metagrad
from metagrad.diagnostics.plain_run import plain_run
from metagrad.frontend.jaxprs import kinks

stop = jax.lax.stop_gradient
START, RATE = jnp.array([1.0, 2.0]), 0.1
DATA = jnp.linspace(0.5, 1.5, 6).reshape(3, 2)


@jax.custom_vjp
def ruled(x):
    """Its rule is not the derivative, and its forward rule calls it again."""
    return jnp.sin(x)


ruled.defvjp(lambda x: (ruled(x), x), lambda x, g: (g * x,))


@jax.custom_jvp
def halved(x):
    return x**2


halved.defjvp(lambda primals, tangents: (halved(primals[0]), primals[0] * tangents[0]))


@jax.custom_jvp
def rule_with_a_stop(x):
    return x**2


@rule_with_a_stop.defjvp
def _(primals, tangents):
    return rule_with_a_stop(primals[0]), 2 * stop(primals[0]) * tangents[0]


def descends(loss, grad=metagrad.grad):
    return lambda w, z, x: w - z * grad(lambda w: jnp.sum(loss(w, z, x)))(w)


def scanned(w, z, x):
    turn = lambda c, x: (c - z * x * jax.lax.cond(x > 1, stop, lambda c: c, c * z), None)
    return jax.vmap(lambda w, x: jax.lax.scan(turn, w, x)[0])(w, jnp.stack([x, x]))


def looped(w, z, x):
    return jax.lax.while_loop(lambda c: jnp.sum(c) < 9, lambda c: c + stop(c), stop(w * z + x))


def microbatches(w, z, x):
    add = lambda total, x: (total + metagrad.grad(lambda w: jnp.sum((w - stop(z * w)) ** 2))(w), 0)
    return w - z * jax.lax.scan(add, jnp.zeros(2), x)[0]


NAMED = {
    "a rate": lambda w, z, x: w - stop(z * x) * w - z**2,
    "one stop behind another": lambda w, z, x: w - stop(stop(z * x) * w),
    "under jit": lambda w, z, x: w - jax.jit(lambda z: stop(z) * x)(z),
    "jit, vmap and a tree map of it": lambda w, z, x: (
        w - jax.jit(stop)(z * w) - jax.vmap(stop)(z * x) - jax.tree.map(stop, [z])[0]
    ),
    "a scan, a branch and vmap": scanned,
    "a while_loop": lambda w, z, x: w - looped(w, z, x),
    "jax.checkpoint": lambda w, z, x: w - jax.checkpoint(lambda w: stop(jnp.sin(w)) * z)(w * z),
    "a target in the loss": descends(lambda w, z, x: (w - stop(z * w * x)) ** 2),
    "a target in the loss, by jax.grad": descends(lambda w, z, x: (w - stop(z * x)) ** 2, jax.grad),
    "microbatches": microbatches,
    "a gradient in a loss": descends(
        lambda w, z, x: (w - z * metagrad.grad(lambda w: jnp.sum(w**3 * stop(z * w)))(w)) ** 2
    ),
    "a Hessian-vector product": lambda w, z, x: (
        w - jax.jvp(metagrad.grad(lambda w: jnp.sum(jnp.sin(w) * stop(w * z))), (w,), (x,))[1]
    ),
    "in a user's rule": descends(lambda w, z, x: rule_with_a_stop(w * z)),
    "custom_vjp": lambda w, z, x: w - z * ruled(w * z),
    "custom_vjp in a loss, whose forward rule calls it": descends(lambda w, z, x: ruled(w) ** 3),
    "custom_jvp": lambda w, z, x: w - z * halved(w * x),
}

NOT_NAMED = {
    "data": lambda w, z, x: w - z * stop(x),
    "a result that nobody reads": lambda w, z, x: (w - z * x, stop(z * w))[0],
    "a term of the loss without w": descends(lambda w, z, x: (w - x) ** 2 + stop(z)),
    "a factor that is compared only": lambda w, z, x: w - z * jnp.where(stop(w * z) > 1, x, w),
    "softmax and logsumexp": descends(
        lambda w, z, x: (
            jax.nn.softmax(w * x)[0]
            + jax.nn.log_softmax(w)[1] ** 2
            + jax.scipy.special.logsumexp(w * z)
        )
    ),
    "a linear solve": lambda w, z, x: w - z * jnp.linalg.solve(jnp.outer(w, w) + jnp.eye(2), x),
    "branches under vmap": lambda w, z, x: jax.vmap(
        lambda w: jax.lax.cond(w > 1, jnp.sin, jnp.cos, w * z)
    )(w),
    "a rule that the inner gradient used up": descends(lambda w, z, x: plain_forward(w) ** 2),
    "a relu": descends(lambda w, z, x: jax.nn.relu(w * x) ** 2),
    "arcsinh": descends(lambda w, z, x: jnp.arcsinh(w * z)),
}


@jax.custom_vjp
def plain_forward(x):
    return x


# A clip of gradients: what it does is part of what the step computes.
plain_forward.defvjp(lambda x: (x, None), lambda _, g: (jnp.tanh(g),))


def places(step, outer=jnp.sum, arguments=(START, RATE, DATA), wrt="meta"):
    lowered = metagrad.compile(step).metagradient(outer, wrt).lower(*arguments)
    _, _, text = lowered.explain().partition("finite differences):\n")
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]


def both_derivatives(step):
    """JAX's derivative in z, and that of the run in which nothing is cut (both in forward mode)."""
    run = plain_run(step, jnp.sum, (START, RATE, DATA, ()), False, False)
    of = lambda run: jax.jit(
        lambda z: run.value(run.arrays() | {"meta": [jnp.asarray(z, jnp.float32)]})
    )
    uncut = jax.jvp(of(run.without_cuts()), (RATE,), (1.0,))[1]
    if "vjp" in str(run.step):
        return jax.grad(of(run))(RATE), uncut
    return jax.jvp(of(run), (RATE,), (1.0,))[1], uncut


@pytest.mark.parametrize("name", NAMED)
def test_what_is_cut_is_named(name):
    named = places(NAMED[name])
    assert named and all("tests/frontend/test_cuts.py:" in place for place in named)
    assert not np.isclose(*both_derivatives(NAMED[name]), rtol=1e-4)


@pytest.mark.parametrize("name", NOT_NAMED)
def test_what_cuts_nothing_is_not_named(name):
    assert places(NOT_NAMED[name]) == []
    np.testing.assert_allclose(*both_derivatives(NOT_NAMED[name]), rtol=1e-5)


def line_of(function):
    return inspect.getsourcelines(function)[1]


def test_the_line_and_the_function():
    def decayed(z):
        return stop(z) * 0.9

    (place,) = places(lambda w, z, x: w - decayed(z) * w)
    line = line_of(decayed) + 1
    assert place == f"stop_gradient in decayed (tests/frontend/test_cuts.py:{line})"


def test_a_rule_by_its_function_and_the_line_that_calls_it():
    step = lambda w, z, x: w - ruled(z * w)
    (place,) = places(step)
    assert place == f"custom_vjp of ruled (tests/frontend/test_cuts.py:{line_of(step)})"


def test_a_jitted_function_of_a_library_and_the_line_of_each_call():
    """JAX keeps the trace of a jitted function, with the lines of its first call."""
    rate = jax.jit(optax.scale_gradient, static_argnums=1)
    first = lambda w, z, x: w - rate(z, 0.5) * w
    second = lambda w, z, x: w - rate(z, 0.5) * x
    for step in (first, second):
        (place,) = places(step)
        assert place.startswith("custom_vjp of _scale_gradient (optax/_src/utils.py:")
        assert place.endswith(f", called at tests/frontend/test_cuts.py:{line_of(step)})")


def test_leaves_of_the_state():
    """A stopped average of the weights: named only if it gets back to what the outer reads."""
    mean = lambda s, z, x: (s[0] - z * x, stop(0.9 * s[1] + 0.1 * s[0]))
    arguments = ((START, START), RATE, DATA)
    assert places(mean, lambda s: jnp.sum(s[0]), arguments) == []
    assert len(places(mean, lambda s: jnp.sum(s[1]), arguments)) == 1
    read = lambda s, z, x: (s[0] - z * x * s[1], stop(0.9 * s[1] + 0.1 * s[0]))
    assert len(places(read, lambda s: jnp.sum(s[0]), arguments)) == 1


@pytest.mark.parametrize("wrt, count", [("meta", 0), ("state", 0), ("batches", 1)])
def test_what_wrt_names(wrt, count):
    assert len(places(lambda w, z, x: w * z - stop(x), wrt=wrt)) == count


def test_the_outer_function():
    assert len(places(lambda w, z, x: w - z * x, lambda w: jnp.sum(w * stop(w)))) == 1
    arguments = (START, RATE, DATA, START)
    assert places(lambda w, z, x: w - z * x, lambda w, a: jnp.sum(w * stop(a)), arguments) == []


def test_a_schedule_of_optax_with_a_stop():
    def step(s, z, x):
        schedule = optax.cosine_decay_schedule(stop(z), 10)
        optimiser = optax.sgd(schedule, momentum=0.9)
        updates, opt = optimiser.update(metagrad.grad(lambda w: jnp.sum((w - x) ** 2))(s[0]), s[1])
        return optax.apply_updates(s[0], updates), opt

    state = START, optax.sgd(optax.constant_schedule(1.0), momentum=0.9).init(START)
    (place,) = places(step, lambda s: jnp.sum(s[0]), (state, RATE, DATA))
    assert place.startswith("stop_gradient in step (tests/frontend/test_cuts.py:")


def test_a_stop_of_optax_by_its_transformation():
    optimiser = optax.scale_by_lbfgs(2)

    def step(s, z, x):
        updates, opt = optimiser.update(
            metagrad.grad(lambda w: jnp.sum(z * w**2))(s[0]), s[1], s[0]
        )
        return s[0] - 0.1 * updates, opt

    state = START, optimiser.init(START)
    named = places(step, lambda s: jnp.sum(s[0]), (state, RATE, DATA))
    assert any(
        place.startswith("stop_gradient in scale_by_lbfgs (optax/_src/transform.py:")
        and "called at tests/frontend/test_cuts.py:" in place
        for place in named
    )


def test_a_run_without_cuts_says_nothing(lowered):
    assert "On the way" not in lowered.explain()


SMOOTH = {
    "logsumexp": jax.nn.logsumexp,
    "log_softmax": lambda w: jax.nn.log_softmax(w)[0],
    "softmax": lambda w: jax.nn.softmax(w)[0],
    "softmax in attention": lambda w: jnp.sum(
        jax.nn.dot_product_attention(*[w.reshape(1, 2, 1, 1)] * 3, is_causal=True)
    ),
    "softmax of rows": lambda w: jax.vmap(jax.jit(jax.nn.softmax))(jnp.outer(w, w))[0, 0],
    "optax, probabilities": lambda w: optax.softmax_cross_entropy(w, jnp.array([1.0, 0.0])),
    "optax, labels": lambda w: jnp.sum(
        optax.softmax_cross_entropy_with_integer_labels(w[None], jnp.array([1]))
    ),
    "optax, safe": lambda w: optax.safe_softmax_cross_entropy(w, jnp.array([1.0, 0.0])),
    "optax, binary": lambda w: jnp.sum(
        optax.sigmoid_binary_cross_entropy(w, jnp.array([1.0, 0.0]))
    ),
    "softplus": lambda w: jnp.sum(jax.nn.softplus(w)),
    "gelu and silu": lambda w: jnp.sum(jax.nn.gelu(w) * jax.nn.silu(w)),
}


def kinks_of(step):
    run = plain_run(step, jnp.sum, (START, RATE, DATA, ()), False, False)
    return [place.kind for place in kinks.find_kinks(run.step, run.outer, run.layout, ("meta",))]


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_functions_of_jax_and_optax_have_no_kinks(name):
    loss = SMOOTH[name]
    assert kinks_of(lambda w, z, x: w - z * loss(w * z)) == []
    assert kinks_of(descends(lambda w, z, x: loss(w * z))) == []


def test_kinks_beside_a_smooth_function_are_named():
    """JAX keeps what `jnp.max` was traced to inside of `logsumexp`, with the lines of that call."""
    for _ in range(2):
        largest = lambda w, z, x: w - jnp.max(w * z) - jnp.linalg.norm(w * z, 1)
        assert kinks_of(largest) == ["reduce_max", "abs"]
        assert kinks_of(lambda w, z, x: w - jax.nn.logsumexp(w * z)) == []
        both = lambda w, z, x: w - jax.nn.softmax(jax.nn.relu(w * z)) - jnp.max(w * z)
        assert kinks_of(both) == ["relu", "reduce_max"]
        chosen = lambda w, z, x: w - jax.nn.logsumexp(jnp.where(w * z > 0.15, w * z, 0.0))
        assert kinks_of(chosen) == ["select_n"]


def test_kinks_and_narrow_floats():
    def step(w, z, x):
        masked = jnp.where(x > 1, z * w, w)  # by the data, which does not move
        chosen = jnp.where(jnp.where(z > w, 1, 0) > 0, z * w, masked)
        taken = jax.lax.cond(jnp.sum(w * z) > 1, jnp.sin, jnp.cos, z * w)
        smooth = jnp.logaddexp(z * w, x) + jnp.maximum(x, 0.0)
        return w - z * jax.nn.relu(w * x) - jnp.round(z * w) + smooth + chosen + taken

    run = plain_run(step, jnp.sum, (START, RATE, DATA, ()), False, False)
    named = kinks.find_kinks(run.step, run.outer, run.layout, ("meta",))
    assert [place.kind for place in named] == ["select_n", "cond", "relu", "round"]
    drop = lambda s, z, x: (jnp.where(jax.random.bernoulli(s[1], 0.5, (2,)), s[0], z), s[1])
    state = START, jax.random.key(0)
    run = plain_run(drop, lambda s: jnp.sum(s[0]), (state, RATE, DATA, ()), False, False)
    assert kinks.find_kinks(run.step, run.outer, run.layout, ("state",)) == ()  # a key stays
    narrow = lambda w, z, x: w - (z * x.astype(jnp.bfloat16)).astype(jnp.bfloat16)
    run = plain_run(narrow, jnp.sum, (START, jnp.asarray(RATE), DATA, ()), False, False)
    (place,) = kinks.find_narrow(run.step, run.outer, run.layout, ("meta",))
    assert str(place).startswith("a conversion to bfloat16 (tests/frontend/test_cuts.py:")


@pytest.mark.parametrize(
    "product, kinds",
    [
        (lambda a, b: a.astype(jnp.float16) @ b.astype(jnp.float16), ["a conversion to float16"]),
        (
            lambda a, b: jnp.dot(
                a.astype(jnp.bfloat16),
                b.astype(jnp.bfloat16),
                preferred_element_type=jnp.float32,
            ),
            ["a conversion to bfloat16", "a product of bfloat16 operands"],
        ),
        (
            lambda a, b: jnp.dot(a, b, preferred_element_type=jnp.bfloat16),
            ["a product in bfloat16"],
        ),
        (lambda a, b: jax.lax.reduce_precision(a, 8, 7) @ b, ["a rounding to 7 bits of mantissa"]),
        (lambda a, b: jax.lax.reduce_precision(a, 8, 23) @ b, []),
        (lambda a, b: a @ b, []),
        (lambda a, b: a @ b.astype(jnp.bfloat16), []),  # the data, which do not move
    ],
)
def test_narrow_products(product, kinds):
    step = lambda w, z, x: w - (z * product(z * w, x)).astype(w.dtype)
    run = plain_run(step, jnp.sum, (START, jnp.float32(RATE), DATA, ()), False, False)
    named = kinks.find_narrow(run.step, run.outer, run.layout, ("meta",))
    assert [place.kind for place in named] == kinds
