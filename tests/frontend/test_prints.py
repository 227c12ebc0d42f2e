"""`jax.debug.print` in a step.

Each step that is run prints what the plain step prints, and no result changes.
"""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import metagrad

W, Z, XS = jnp.asarray([0.3, -0.7]), jnp.asarray(0.5), jnp.linspace(-1.0, 1.0, 12).reshape(6, 2)
T = len(XS)


def loss(w, z, x):
    return jnp.sum(jnp.tanh(w * z - x) ** 2)


def say(what, value, show=True):
    """A print that names itself; nothing if the silent twin of a program is wanted."""
    if show:
        jax.debug.print("<{what}>{value}", what=what, value=value)
    return value


def descend(show, inside=lambda value, show: value, grad=lambda f: metagrad.grad(f)):
    """A step that prints in the update and, by `inside`, in its loss."""

    def step(w, z, x):
        g = grad(lambda w: inside(loss(w, z, x), show))(w)
        say("norm", jnp.sum(g**2), show)
        return w - 0.1 * g

    return step


def outer(show):
    return lambda w: say("outer", jnp.sum(w**3), show)


@pytest.fixture
def heard(capfd):
    """Runs a function; gives its result, and the names of the prints with how often each came."""

    def run(function, *arguments):
        capfd.readouterr()
        result = jax.block_until_ready(function(*arguments))
        jax.effects_barrier()
        return result, dict(
            collections.Counter(
                line.split(">")[0][1:]
                for line in capfd.readouterr().out.splitlines()
                if line.startswith("<")
            )
        )

    return run


def same(result, silent):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
        tuple(result),
        tuple(silent),
    )


SCHEDULES = {
    "StoreAll": metagrad.StoreAll(),
    "StoreAll, no gradients kept": metagrad.StoreAll(keep_gradients=False),
    "Binomial": metagrad.Binomial(2),
    "Binomial, states rebuilt": metagrad.Binomial(2, rebuild=2),
    "LazyKary": metagrad.LazyKary(2),
    "Periodic": metagrad.Periodic(3, keep_gradients=False),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_once_for_each_step_that_is_run(name, heard):
    """Also where a gradient is computed again for the VJP or a step is made again from its kept
    gradient. Neither counts as a step that is run.
    """
    mg = lambda show: metagrad.compile(
        descend(show, lambda value, show: say("loss", value, show))
    ).metagradient(outer(show), wrt=("meta", "state", "batches"), schedule=SCHEDULES[name])
    plan = mg(True).lower(W, Z, XS).plan
    assert "no gradients" not in name or plan.gradients_on_the_spot, (
        "the case has a gradient that is computed again"
    )
    assert "rebuilt" not in name or plan.updates, "the case has a step that is made again"
    result, printed = heard(mg(True), W, Z, XS)
    assert printed == {"loss": plan.advances, "norm": plan.advances, "outer": 1}
    same(result, mg(False)(W, Z, XS))


def in_a_scan(value, show):
    return lax.scan(lambda c, _: (say("scan", c, show) * 1.1, None), value, length=3)[0]


def in_a_branch(value, show):
    return lax.cond(
        value > 0, lambda v: say("taken", v, show) * 2, lambda v: say("not taken", v, show), value
    )


def under_vmap(value, show):
    return jnp.sum(jax.vmap(lambda c: say("example", c, show) * value)(jnp.ones(4)))


def under_jit(value, show):
    return jax.jit(lambda v: say("jit", v, show) ** 2)(value)


def in_a_loop_over_data(value, show):
    return value * lax.fori_loop(0, 2, lambda i, c: c + say("turn", i, show), 1)


def in_a_custom_jvp(value, show):
    @jax.custom_jvp
    def f(v):
        return say("primal", jnp.sin(v), show)

    f.defjvp(lambda primals, tangents: (f(primals[0]), jnp.cos(primals[0]) * tangents[0]))
    return f(value)


def in_a_backward_rule(value, show):
    """The usual way to look at a cotangent."""

    @jax.custom_vjp
    def f(v):
        return v * 2

    f.defvjp(lambda v: (v * 2, None), lambda _, bar: (2 * say("cotangent", bar, show),))
    return f(value)


INSIDE = {
    "scan": (in_a_scan, {"scan": 3}),
    "cond": (in_a_branch, {"taken": 1}),
    "vmap": (under_vmap, {"example": 4}),
    "jit": (under_jit, {"jit": 1}),
    "loop": (in_a_loop_over_data, {"turn": 2}),
    "custom_jvp": (in_a_custom_jvp, {"primal": 1}),
    "custom_vjp": (in_a_backward_rule, {"cotangent": 1}),
}


def in_microbatches(f):
    return lambda w: lax.scan(
        lambda total, _: (total + metagrad.grad(f)(w), None), jnp.zeros_like(w), length=2
    )[0]


GRADIENTS = {
    "metagrad.grad": (lambda f: metagrad.grad(f), 1),
    "jax.grad": (lambda f: jax.grad(f), 1),
    "microbatches": (in_microbatches, 2),
}


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("name", INSIDE)
def test_in_the_loss(name, gradient, heard):
    """As often as the plain step, and from no derivative."""
    inside, times = INSIDE[name]
    grad, gradients = GRADIENTS[gradient]
    steps = lambda show: metagrad.compile(descend(show, inside, grad))
    _, plain = heard(steps(True), W, Z, XS[0])
    assert plain == {"norm": 1} | {what: gradients * often for what, often in times.items()}
    mg = steps(True).metagradient(jnp.sum, schedule=metagrad.LazyKary(2))
    advances = mg.lower(W, Z, XS).plan.advances
    result, printed = heard(mg, W, Z, XS)
    assert printed == {what: often * advances for what, often in plain.items()}
    same(result, steps(False).metagradient(jnp.sum, schedule=metagrad.LazyKary(2))(W, Z, XS))


@pytest.mark.parametrize("ad", ["auto", "enzyme"])
def test_printing_does_not_change_who_differentiates(ad):
    """The mixed mode stays."""
    for inside in (lambda value, show: say("loss", value, show), in_a_scan, in_a_branch):
        rules = [
            [
                decision.rule
                for decision in metagrad.compile(descend(show, inside), ad=ad)
                .metagradient(outer(show))
                .lower(W, Z, XS)
                .decisions
            ]
            for show in (True, False)
        ]
        assert rules[0] == rules[1] == ["enzyme"] * 3


def test_what_only_a_print_needs(heard):
    """Enzyme has no derivative of an eigenvalue, and is not asked for one."""

    def step(w, z, x):
        say("spectrum", jnp.linalg.eigvalsh(jnp.outer(w, w) * z))
        return w - 0.1 * metagrad.grad(loss)(w, z, x)

    mg = metagrad.compile(step, ad="enzyme").metagradient(jnp.sum, schedule=metagrad.StoreAll())
    assert heard(mg, W, Z, XS)[1] == {"spectrum": T}


def test_what_is_printed(capfd):
    """The values, at the steps that they belong to.

    They are unordered, but on one device they come in the order of the run.
    """

    def step(w, z, x):
        jax.debug.print("w={} name={name}", w, name="text", ordered=False)
        return w + x

    metagrad.compile(step).metagradient(
        lambda w: w * 1.0, wrt="state", schedule=metagrad.StoreAll()
    )(jnp.asarray(0.0), None, jnp.asarray([1.0, 2.0, 4.0]))
    jax.effects_barrier()
    assert capfd.readouterr().out.splitlines() == [
        "w=0.0 name=text",
        "w=1.0 name=text",
        "w=3.0 name=text",
    ]


def test_an_outer_function_with_arguments(heard):
    mg = metagrad.compile(descend(False)).metagradient(
        lambda w, scale: say("outer", jnp.sum(w) * scale), has_aux=False
    )
    assert heard(mg, W, Z, XS, jnp.asarray(2.0))[1] == {"outer": 1}


@pytest.mark.parametrize(
    "wrap",
    [jax.jit, lambda f: jax.jit(lambda *a: lax.map(lambda z: f(W, z, XS), jnp.ones(2)))],
    ids=["jit", "a loop"],
)
def test_inside_another_program(wrap, heard):
    """With prints of its own, whose functions come before ours and after."""
    mg = metagrad.compile(descend(True)).metagradient(jnp.sum, schedule=metagrad.StoreAll())

    def program(w, z, x):
        say("before", z)
        return say("after", mg(w, z, x).value)

    runs = 1 if wrap is jax.jit else 2
    assert heard(wrap(program), W, Z, XS)[1] == {"before": runs, "norm": T * runs, "after": runs}


def test_two_programs_in_one(heard):
    one, two = (
        metagrad.compile(lambda w, z, x, what=what: say(what, w) - z * x).metagradient(
            jnp.sum, schedule=metagrad.StoreAll()
        )
        for what in ("one", "two")
    )
    assert heard(jax.jit(lambda: one(W, Z, XS).value + two(W, Z, XS[:2]).value))[1] == {
        "one": T,
        "two": 2,
    }


def test_compiled_ahead_of_time(heard):
    compiled = (
        metagrad.compile(descend(True))
        .metagradient(jnp.sum, schedule=metagrad.StoreAll())
        .lower(W, Z, XS)
        .compile()
    )
    for _ in range(2):
        assert heard(compiled, W, Z, XS)[1] == {"norm": T}


def test_derivative_by_jax(heard):
    mg = metagrad.compile(descend(True, in_a_scan), ad="jax").metagradient(
        jnp.sum, schedule=metagrad.StoreAll()
    )
    assert heard(mg, W, Z, XS)[1] == {"norm": T, "scan": 3 * T}


def test_looking_for_a_nan_prints_nothing(heard):
    """The run is then repeated step by step, which is not a run of the program."""
    mg = metagrad.compile(lambda w, z, x: say("step", w) - 0.1 * jnp.sqrt(w * 0) * z).metagradient(
        outer(True), wrt="state", check_nans=True
    )

    def run():
        with pytest.raises(FloatingPointError, match="VJP of step 5"):
            mg(W, Z, XS)
        return ()

    plan = mg.lower(W, Z, XS).plan
    assert heard(run)[1] == {"step": plan.advances, "outer": 1}


def test_a_program_that_prints_is_not_stored():
    mg = metagrad.compile(descend(True)).metagradient(jnp.sum)
    with pytest.raises(NotImplementedError, match="host_callbacks"):
        jax.export.export(jax.jit(lambda w, z, x: mg(w, z, x).value))(W, Z, XS)


def test_under_grad_and_vmap(heard):
    mg = metagrad.compile(descend(True)).metagradient(jnp.sum, schedule=metagrad.StoreAll())
    assert heard(jax.grad(lambda z: mg(W, z, XS).value), Z)[1] == {"norm": T}
    of_two = jax.vmap(lambda z: mg(W, z, XS).value)
    assert heard(of_two, jnp.ones(2))[1] == {"norm": 2 * T}


# --- Pure callbacks -------------------------------------------------------------------------------


def double(i):
    return np.asarray(2 * i, np.float32)


def host(i):
    return jax.pure_callback(double, jax.ShapeDtypeStruct((), jnp.float32), i)


@pytest.mark.parametrize("where", ["step", "loss", "both and a print"])
def test_pure_callback_on_data(where, heard):
    """No derivative reaches it, so nothing needs one of it."""
    twice = lambda here, i, called: (host(i) if called else 2.0 * i) if here in where else 1.0

    def step(called):
        def run(w, z, batch):
            i, x = batch
            if "print" in where:
                say("step", i)
            g = metagrad.grad(
                lambda w: twice("loss" if where == "loss" else "both", i, called) * loss(w, z, x)
            )(w)
            return w - 0.01 * g * twice("step" if where == "step" else "both", i, called)

        return metagrad.compile(run).metagradient(
            jnp.sum, wrt=("meta", "state"), schedule=metagrad.LazyKary(2)
        )

    arguments = W, Z, (jnp.arange(T), XS)
    same(jax.block_until_ready(step(True)(*arguments)), step(False)(*arguments))


def test_pure_callback_that_would_be_differentiated():
    with pytest.raises(
        NotImplementedError,
        match=r"(?s)JAX cannot differentiate the update of <lambda>.*Pure callbacks do not support "
        "JVP",
    ):
        metagrad.compile(lambda w, z, x: w - z * host(jnp.sum(w))).metagradient(jnp.sum).lower(
            W, Z, XS
        )
