"""A metaparameter that the step never reads: one warning, with its path."""

import warnings

import jax
import jax.numpy as jnp
import optax
import pytest

import metagrad

META = {"rate": jnp.float32(0.1), "decay": jnp.float32(0.5), "n": jnp.int32(1)}


def lower(step, meta=META, state=1.0, has_aux=False, outer=lambda s: s, **options):
    mg = metagrad.compile(step, has_aux=has_aux).metagradient(outer, **options)
    return mg.lower(jnp.float32(state), meta, jnp.ones(2))


def test_it_is_warned_of_once():
    """By the call, where the user made it; not again for other shapes, nor by a second call."""
    mg = metagrad.compile(lambda s, z, b: s * z["rate"]).metagradient(jnp.sum)
    with pytest.warns(UserWarning) as warned:
        result = mg(jnp.ones(2), META, jnp.arange(2))
        mg(jnp.ones(2), META, jnp.arange(2))
        mg(jnp.ones(3), META, jnp.arange(2))
    assert [str(warning.message) for warning in warned] == [
        "the step `<lambda>` never reads meta['decay']: the gradient is zero. Is a name misspelt? "
        "Take out of meta what the step does not need."
    ]
    assert warned[0].filename == __file__ and result.grad["decay"] == 0


def test_another_leaf_is_warned_of_too():
    mg = metagrad.compile(lambda s, z, b: s * z["rate"]).metagradient(jnp.sum)
    with pytest.warns(UserWarning, match=r"never reads meta\['decay'\]:"):
        mg.lower(1.0, META, jnp.arange(2))
    more = META | {"a": jnp.ones(2), "b": 1.0}
    with pytest.warns(UserWarning, match=r"never reads meta\['a'\], meta\['b'\]:"):
        mg.lower(1.0, more, jnp.arange(2))


UNREAD = {
    "not at all": lambda s, z, b: s * z["rate"],
    "what is not used": lambda s, z, b: (jnp.sin(z["decay"]), s * z["rate"])[1],
    "an argument of a loss": lambda s, z, b: s - metagrad.grad(lambda s, z: s**2 * z["rate"])(s, z),
    "in a loss, and not its result": lambda s, z, b: (
        s - metagrad.grad(lambda s: (s**2 * z["rate"], z["decay"]), has_aux=True)(s)[0]
    ),
    "in a jitted function": lambda s, z, b: jax.jit(lambda s, z: s * z["rate"])(s, z),
    "in a loop": lambda s, z, b: jax.lax.fori_loop(
        0, 2, lambda i, c: (c[0] * z["rate"], c[1] * 2), (s, z["decay"])
    )[0],
    "a print": lambda s, z, b: (jax.debug.print("{}", z["decay"]), s * z["rate"])[1],
}


@pytest.mark.parametrize("name", UNREAD)
def test_what_is_not_read(name):
    with pytest.warns(UserWarning, match=r"never reads meta\['decay'\]:"):
        assert lower(UNREAD[name]).unread == ("meta['decay']",)


READ = {
    "by the update": lambda s, z, b: s * z["rate"] + z["decay"],
    "by a loss": lambda s, z, b: s - metagrad.grad(lambda s: s**2 * z["rate"] + s * z["decay"])(s),
    "by the value of a loss": lambda s, z, b: metagrad.value_and_grad(
        lambda s: s * z["rate"] + z["decay"]
    )(s)[0],
    "by an auxiliary result of a loss": lambda s, z, b: sum(
        metagrad.grad(lambda s: (s**2 * z["rate"], z["decay"]), has_aux=True)(s)
    ),
    "by a condition": lambda s, z, b: jnp.where(z["decay"] > 0, s * z["rate"], s),
    "behind stop_gradient": lambda s, z, b: s * z["rate"] * jax.lax.stop_gradient(z["decay"]),
    "in a loop": lambda s, z, b: jax.lax.fori_loop(
        0, 2, lambda i, c: (c[0] * z["rate"] + c[1], c[1]), (s, z["decay"])
    )[0],
}


@pytest.mark.parametrize("name", READ)
def test_what_is_read(name):
    assert lower(READ[name]).unread == ()


def test_what_only_the_aux_output_reads_is_read():
    step = lambda s, z, b: (s * z["rate"], z["decay"])
    assert lower(step, has_aux=True).unread == ()


def test_a_leaf_that_is_read_in_the_state_is_not_meant():
    """It is read by the step, whatever the outer function reads."""
    step = lambda s, z, b: {"w": s["w"] * z["rate"], "seen": z["decay"] * 1}
    mg = metagrad.compile(step).metagradient(lambda s: s["w"])
    assert mg.lower({"w": 1.0, "seen": 0.0}, META, jnp.arange(2)).unread == ()


def test_no_warning_where_no_gradient_of_meta_is_asked_for():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lower(lambda s, z, b: s * z["rate"], wrt="state")


def test_leaves_that_are_no_numbers_are_not_meant():
    """An optimiser's functions, a key, a counter."""
    meta = {"rate": 0.1, "key": jax.random.key(0), "f": optax.sgd(0.1).update, "n": 3}
    assert lower(lambda s, z, b: s * z["rate"], meta).unread == ()
