"""The decorated step is an ordinary function: `jit`, `vmap`, `grad` and `lax.scan` work on it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metagrad


def undecorated(w, decay, x):
    return w - 0.1 * (2 * (w - x) + 2 * decay * w)


def test_call(step, arguments):
    w, decay, xs = arguments
    np.testing.assert_allclose(step(w, decay, xs[0]), undecorated(w, decay, xs[0]), rtol=1e-6)


def test_it_keeps_name_and_docstring(step):
    assert step.__name__ == "train_step" and step.__doc__ == "One step of gradient descent."
    assert isinstance(step, metagrad.TrainStep)


def test_jit(step, arguments):
    w, decay, xs = arguments
    np.testing.assert_allclose(
        jax.jit(step)(w, decay, xs[0]), undecorated(w, decay, xs[0]), rtol=1e-6
    )


def test_vmap(step, arguments):
    w, decay, xs = arguments
    np.testing.assert_allclose(
        jax.vmap(step, in_axes=(None, None, 0))(w, decay, xs),
        jax.vmap(undecorated, in_axes=(None, None, 0))(w, decay, xs),
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    "transform", [jax.grad, functools.partial(jax.jacfwd)], ids=["reverse", "forward"]
)
def test_grad(step, arguments, transform):
    w, decay, xs = arguments
    got = transform(lambda decay: jnp.sum(step(w, decay, xs[0]) ** 2))(decay)
    want = transform(lambda decay: jnp.sum(undecorated(w, decay, xs[0]) ** 2))(decay)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_scan(step, arguments):
    w, decay, xs = arguments
    got, _ = jax.lax.scan(lambda w, x: (step(w, decay, x), None), w, xs)
    for x in xs:
        w = undecorated(w, decay, x)
    np.testing.assert_allclose(got, w, rtol=1e-6)


def test_decorated_with_options():
    @metagrad.compile(has_aux=True, ad="auto")
    def step(w, decay, x):
        return w * decay, x

    assert step(2.0, 3.0, 4.0) == (6.0, 4.0)


def test_a_method_can_be_decorated_when_bound():
    class Trainer:
        rate = 0.25

        def step(self, w, z, x):
            return w - self.rate * metagrad.grad(lambda w: jnp.sum((w - x * z) ** 2))(w)

    mg = metagrad.compile(Trainer().step).metagradient(jnp.sum)
    assert mg(jnp.ones(2), 1.0, jnp.ones((2, 2))).grad.shape == ()


def test_a_method_can_be_decorated():
    class Trainer:
        rate = 0.25

        @metagrad.compile
        def step(self, w, z, x):
            return w - self.rate * metagrad.grad(lambda w: jnp.sum((w - x * z) ** 2))(w)

    trainer = Trainer()
    np.testing.assert_allclose(trainer.step(jnp.ones(2), 1.0, jnp.zeros(2)), 0.5 * jnp.ones(2))
    assert trainer.step.metagradient(jnp.sum)(jnp.ones(2), 1.0, jnp.ones((2, 2))).grad.shape == ()
    assert isinstance(Trainer.step, metagrad.TrainStep)


# Python 3.13 says of a partial in a class, decorated or not, that it will bind one day.
@pytest.mark.filterwarnings("ignore:functools.partial will be a method:FutureWarning")
def test_what_does_not_bind_undecorated_does_not_bind_decorated():
    class Trainer:
        step = metagrad.compile(functools.partial(lambda rate, w, z, x: w - rate * x * z, 0.5))
        free = staticmethod(metagrad.compile(lambda w, z, x: w - x * z))

    assert Trainer().step(2.0, 1.0, 2.0) == 1.0 and Trainer().free(2.0, 1.0, 2.0) == 0.0


@pytest.mark.parametrize("bad", [3, "step", None.__class__()])
def test_what_is_no_function(bad):
    if bad is None:
        assert callable(metagrad.compile(bad))
    else:
        with pytest.raises(TypeError, match=r"metagrad.compile decorates a function, not"):
            metagrad.compile(bad)


def test_unknown_ad():
    with pytest.raises(ValueError, match="ad='tape' is none of 'auto', 'enzyme', 'jax'"):
        metagrad.compile(lambda s, z, b: s, ad="tape")
