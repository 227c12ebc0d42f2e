"""Effects that a metagradient cannot have are refused, with the place that they come from."""

import jax
import jax.experimental
import jax.numpy as jnp
import pytest
from bad_input import descend, refused, total

import metagrad


def ordered(value):
    jax.debug.print("{}", value, ordered=True)
    return value


def debugging(value):
    jax.debug.callback(print, value)
    return value


def calling(value):
    return jax.experimental.io_callback(lambda value: value, value, value)


def backward(effect):
    """A function whose backward rule has the effect."""

    @jax.custom_vjp
    def function(value):
        return value

    function.defvjp(lambda value: (value, None), lambda _, bar: (effect(bar),))
    return function


# jax.debug.print without an order is allowed: test_prints.py.
EFFECTS = {
    "ordered print in the step": (
        lambda s, z, x: ordered(s) * z,
        total,
        "the training step",
        "debug_print at",
    ),
    "callback in the step": (
        lambda s, z, x: debugging(s) * z,
        total,
        "the training step",
        "debug_callback at",
    ),
    "callback in the loss": (
        lambda s, z, x: s - metagrad.grad(lambda w: jnp.sum(debugging(w) * z))(s),
        total,
        "the loss <lambda> (test_side_effects.py:",
        "debug_callback at",
    ),
    "io_callback in the loss": (
        lambda s, z, x: s - metagrad.grad(lambda w: jnp.sum(calling(w) * z))(s),
        total,
        "the loss <lambda> (test_side_effects.py:",
        "io_callback at",
    ),
    "callback in a loss under jax.grad": (
        lambda s, z, x: s - jax.grad(lambda w: jnp.sum(debugging(w) * z))(s),
        total,
        "the training step",
        "debug_callback at",
    ),
    "callback in a backward rule": (
        lambda s, z, x: s - metagrad.grad(lambda w: jnp.sum(backward(debugging)(w) ** 2))(s),
        total,
        "backward rule",
        "debug_callback at",
    ),
    "io_callback in a backward rule": (
        lambda s, z, x: backward(calling)(s) * z,
        total,
        "backward rule",
        "io_callback at",
    ),
    "ordered print in a backward rule": (
        descend,
        lambda s: jnp.sum(backward(ordered)(s)),
        "backward rule",
        "debug_print at",
    ),
    "callback under jit": (
        lambda s, z, x: jax.jit(debugging)(s) * z,
        total,
        "the training step",
        "debug_callback at",
    ),
    "ordered print in a scan": (
        lambda s, z, x: jax.lax.scan(lambda c, _: (ordered(c), None), s, length=2)[0] * z,
        total,
        "the training step",
        "debug_print at",
    ),
    "io_callback": (lambda s, z, x: calling(s) * z, total, "the training step", "io_callback at"),
    "callback in the outer function": (
        descend,
        lambda s: jnp.sum(debugging(s)),
        "the outer function `<lambda>`",
        "debug_callback at",
    ),
}


@pytest.mark.parametrize("name", EFFECTS)
def test_side_effects(name):
    step, outer, whose, what = EFFECTS[name]
    does, remedy = "has side effects", "return what you want to see as aux instead (has_aux=True)"
    if "ordered" in name:
        does, remedy = "prints with ordered=True", "use jax.debug.print(...) without ordered=True"
    refused(
        TypeError,
        whose,
        does,
        what,
        "test_side_effects.py",
        "several times",
        remedy,
        step=step,
        outer=outer,
    )


def in_place(value):
    reference = jax.new_ref(value)
    reference[...] = reference[...] ** 2
    return reference[...]


@pytest.mark.parametrize("place", ["step", "loss"])
def test_mutable_references(place):
    step = {
        "step": lambda s, z, x: in_place(s) * z,
        "loss": lambda s, z, x: s - metagrad.grad(lambda w: jnp.sum(in_place(w) * z))(s),
    }[place]
    refused(
        NotImplementedError,
        {"step": "the training step", "loss": "the loss <lambda>"}[place],
        "uses a mutable reference (jax.new_ref)",
        "new_ref at",
        "test_side_effects.py",
        "pass the values on",
        step=step,
    )
