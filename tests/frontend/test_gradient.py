"""`metagrad.grad` and `metagrad.value_and_grad` take JAX's arguments and give JAX's results.

That holds outside of a step and in one.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metagrad

X, Y = jnp.asarray([1.0, 2.0]), {"a": jnp.asarray([0.5, -1.0]), "b": jnp.asarray(3.0)}
N = jnp.asarray([2, 3])


def function(x, y, n=2, *, scale=1.0):
    return scale * jnp.sum(jnp.sin(x) * y["a"]) * y["b"] + jnp.sum(x**2 * n)


def with_aux(x, y):
    return function(x, y), {"x": x * 2, "name": "aux"}


def layers(x, count, train=False):
    """What is computed depends on arguments that are not arrays."""
    for _ in range(count):
        x = jnp.sin(x)
    return jnp.sum(x) if train else jnp.sum(x**2)


CALLS = {
    "first argument": (function, {}, (X, Y), {}),
    "second argument": (function, {"argnums": 1}, (X, Y), {}),
    "a tuple of one": (function, {"argnums": (0,)}, (X, Y), {}),
    "both": (function, {"argnums": (0, 1)}, (X, Y), {}),
    "both, backwards": (function, {"argnums": (1, 0)}, (X, Y), {}),
    "a list": (function, {"argnums": [0, 1]}, (X, Y), {}),
    "negative": (function, {"argnums": -1}, (X, Y), {}),
    "negative in a tuple": (function, {"argnums": (-2, -1)}, (X, Y), {}),
    "a NumPy integer": (function, {"argnums": np.int64(1)}, (X, Y), {}),
    "an array without axes": (function, {"argnums": np.array(1)}, (X, Y), {}),
    "NumPy integers": (function, {"argnums": (np.int32(1), np.int64(0))}, (X, Y), {}),
    "an array of integers": (function, {"argnums": np.array([0, 1])}, (X, Y), {}),
    "a range": (function, {"argnums": range(2)}, (X, Y), {}),
    "keyword argument": (function, {}, (X, Y), {"scale": 2.0}),
    "argument by its name": (function, {}, (X,), {"y": Y, "n": 3}),
    "aux": (with_aux, {"has_aux": True}, (X, Y), {}),
    "aux, both": (with_aux, {"has_aux": True, "argnums": (0, 1)}, (X, Y), {}),
    "integers allowed": (function, {"argnums": (0, 2), "allow_int": True}, (X, Y, N), {}),
    "a float": (lambda x: x**3, {}, (2.0,), {}),
    "a numpy array": (function, {}, (np.asarray(X), Y), {}),
    "a loss in f32 of bf16": (
        lambda x: jnp.sum(x.astype(jnp.float32) ** 2),
        {},
        (X.astype(jnp.bfloat16),),
        {},
    ),
    "a flag and a count": (layers, {}, (X, 2), {"train": True}),
    "a NumPy mask": (lambda x, keep: jnp.sum(x[keep] ** 2), {}, (X, np.asarray([True, False])), {}),
    "a shape": (lambda x, shape: jnp.sum(x.reshape(shape) @ X[:1]), {}, (X, (2, 1)), {}),
    "a static argument": (jax.jit(layers, static_argnums=1), {}, (X, 3), {}),
    "a whole exponent": (lambda x, n: jnp.sum(x**n), {}, (jnp.zeros(2), 1), {}),
    "none in the tree": (
        lambda x, y: jnp.sum(x["w"] ** 2 * y["a"]),
        {},
        ({"w": X, "empty": None}, Y),
        {},
    ),
    "no dependence": (lambda x: jnp.asarray(1.0), {}, (X,), {}),
}


def assert_same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
        if isinstance(w, str):
            assert g == w
            continue
        assert jnp.shape(g) == jnp.shape(w) and jnp.result_type(g) == jnp.result_type(w)
        if w.dtype != jax.dtypes.float0:
            np.testing.assert_allclose(
                np.asarray(g, np.float32), np.asarray(w, np.float32), rtol=1e-6
            )


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("what", ["grad", "value_and_grad"])
def test_outside(name, what):
    f, options, args, kwargs = CALLS[name]
    assert_same(
        getattr(metagrad, what)(f, **options)(*args, **kwargs),
        getattr(jax, what)(f, **options)(*args, **kwargs),
    )


@pytest.mark.parametrize("name", CALLS)
def test_inside(name):
    """In a step that is being traced; seen from there, the results are JAX's too."""
    f, options, args, kwargs = CALLS[name]
    seen = {}

    def step(s, z, b):
        moved = jax.tree.map(
            lambda leaf: (
                leaf + 0 * s.astype(jnp.result_type(leaf))
                if isinstance(leaf, (jax.Array, float))
                else leaf
            ),
            args,
        )
        for name, module in (("ours", metagrad), ("theirs", jax)):
            seen[name] = jax.tree.map(
                _described, module.value_and_grad(f, **options)(*moved, **kwargs)
            )
        return s

    metagrad.compile(step).metagradient(lambda s: s, "state").lower(
        jnp.asarray(1.0), None, jnp.arange(1)
    )
    assert seen["ours"] == seen["theirs"]


def _described(leaf):
    return leaf if isinstance(leaf, str) else (jnp.shape(leaf), jnp.result_type(leaf))


def test_under_transformations():
    np.testing.assert_allclose(jax.vmap(metagrad.grad(jnp.sin))(X), jnp.cos(X), rtol=1e-6)
    np.testing.assert_allclose(
        jax.jit(metagrad.grad(metagrad.grad(jnp.sin)))(1.0), -jnp.sin(1.0), rtol=1e-6
    )


def test_it_keeps_the_name():
    assert (
        metagrad.grad(function).__name__ == "function"
        and metagrad.value_and_grad(function).__name__ == "function"
    )


@pytest.mark.parametrize("what", ["grad", "value_and_grad"])
def test_holomorphic_is_refused(what):
    with pytest.raises(
        ValueError, match=r"holomorphic=True.*real\s+scalar.*Write the loss as a real function"
    ):
        getattr(metagrad, what)(jnp.sin, holomorphic=True)


REFUSED = {
    "integer argument": (
        lambda x: jnp.sum(x * 1.0),
        {},
        (N,),
        TypeError,
        "real- or complex-valued inputs",
    ),
    "a vector": (lambda x: x, {}, (X,), TypeError, "scalar-output functions"),
    "an integer result": (
        lambda x: jnp.sum(x).astype(int),
        {},
        (X,),
        TypeError,
        "real-valued outputs",
    ),
    "argnums too large": (
        lambda x: jnp.sum(x),
        {"argnums": 1},
        (X,),
        TypeError,
        "argnums=1 requires at least 2 positional arguments",
    ),
    "a pair": (lambda x: (jnp.sum(x), 1.0), {}, (X,), TypeError, "scalar-output functions"),
    "a list of one": (lambda x: [jnp.sum(x)], {}, (X,), TypeError, "scalar-output functions"),
    "nothing": (lambda x: None, {}, (X,), TypeError, "scalar-output functions. Output was None"),
    "no aux": (lambda x: jnp.sum(x), {"has_aux": True}, (X,), TypeError, "two-element tuple"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
def test_what_jax_refuses_is_refused_with_its_message(name, inside):
    f, options, args, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        if inside:
            step = metagrad.compile(lambda s, z, b: s + 0 * metagrad.grad(f, **options)(*args)[0])
            step.metagradient(jnp.sum, "state").lower(X, None, jnp.arange(1))
        else:
            metagrad.grad(f, **options)(*args)


@pytest.mark.parametrize("argnums", [(0, 0), (0, -2), (1, 0, 1), ()], ids=str)
def test_an_argument_named_twice_is_what_it_is_to_jax(argnums):
    """JAX 0.10 to 0.12 call the function with None in the place of the argument."""
    messages = []

    def step(s, z, b):
        for module in (jax, metagrad):
            try:
                messages.append(str(jax.tree.map(_described, module.grad(function, argnums)(X, Y))))
            except (TypeError, ValueError) as error:
                messages.append(f"{type(error).__name__}: {error}")
        return s

    metagrad.compile(step).metagradient(lambda s: s, "state").lower(1.0, None, jnp.arange(1))
    assert messages[0] == messages[1]


def test_argnums_that_are_no_integers():
    for argnums in (1.0, "0", (0, 1.5), None):
        with pytest.raises(TypeError):
            metagrad.grad(function, argnums)


@pytest.mark.parametrize("where", ["step", "loss", "outer"])
def test_an_error_names_the_users_function_and_argument(where):
    """What JAX says of a traced value that is not known speaks of the user's code, not of ours."""

    def branching(w, z, batch):
        return jnp.sum(w * z) if batch[0] > 0 else jnp.sum(w)

    def step(w, z, batch):
        return w - (
            branching(w, z, batch)
            if where == "step"
            else metagrad.grad(branching if where == "loss" else lambda w: jnp.sum(w))(
                w, *[z, batch][: 2 * (where == "loss")]
            )
        )

    def outer(final, target):
        return jnp.sum(final) if where == "outer" and target > 0 else jnp.mean(final)

    with pytest.raises(jax.errors.TracerBoolConversionError) as error:
        metagrad.compile(step).metagradient(outer).lower(X, 0.5, jnp.ones((3, 2)), 1.0)
    name, argument = {
        "step": ("step", "batch"),
        "loss": ("branching", "batch"),
        "outer": ("outer", "target"),
    }[where]
    assert f"the function {name} at {__file__}" in str(
        error.value
    ) and f"the value of the argument {argument}" in str(error.value)


@pytest.mark.parametrize("how", ["a rule", "a list"])
def test_traced_values_outside_of_their_function(how):
    kept = []

    def loss(w, z):
        kept.append(w * 2)
        rule = jax.custom_jvp(lambda x: x * z)
        rule.defjvps(lambda t, y, x: 3.0 * t)
        return jnp.sum(rule(w) if how == "a rule" else w * z)

    step = metagrad.compile(
        lambda w, z, batch: (
            w - metagrad.grad(lambda w: loss(w, z))(w) + (kept[-1] if how == "a list" else 0)
        )
    )
    with pytest.raises(
        TypeError,
        match=r"a traced value is used outside of the function that it belongs to.*Pass it as an "
        "argument",
    ):
        step.metagradient(jnp.sum).lower(X, 0.5, jnp.ones((3, 2)))
