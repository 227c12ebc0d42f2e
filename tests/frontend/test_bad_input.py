"""Errors about bad input name the user's own argument and the leaf's path, and say what to do."""

import jax
import jax.experimental
import jax.numpy as jnp
import optax
import pytest
from bad_input import STATE, XS, W, Z, descend, lower, refused, total

import metagrad

# --- A step that changes the state ----------------------------------------------------------------

CHANGES = {
    "a leaf is missing": (
        STATE,
        lambda s: {"w": s["w"]},
        [
            "structure",
            "state: <class 'dict'>",
            "came in",
            "went out",
            "{'n'}",
            "Return the same pytree",
        ],
    ),
    "a leaf is new": (
        STATE,
        lambda s: s | {"loss": 1.0},
        ["structure", "{'loss'}", "put what is new in each step in the aux output (has_aux=True)"],
    ),
    "another container": (
        STATE,
        lambda s: (s["w"], s["n"]),
        ["state: <class 'dict'> came in, <class 'tuple'> went out", "Python types differ"],
    ),
    "deep inside": (
        (W, {"opt": [W, W]}),
        lambda s: (s[0], {"opt": (W, W)}),
        ["state[1]['opt']: <class 'list'> came in, <class 'tuple'> went out"],
    ),
    "an optimiser's state": (
        (W, optax.adam(1.0).init(W)),
        lambda s: (s[0], s[1][0]),
        ["state[1]: <class 'tuple'> came in", "ScaleByAdamState"],
    ),
    "None for an array": (
        STATE,
        lambda s: s | {"w": None},
        ["state['w']: an array came in, <class 'NoneType'> went out"],
    ),
    "nothing at all": (
        STATE,
        lambda s: None,
        ["state: <class 'dict'> came in, <class 'NoneType'> went out"],
    ),
    "has_aux forgotten": (
        STATE,
        lambda s: (s, 1.0),
        ["it returned a tuple of 2", "@metagrad.compile(has_aux=True)", "(new_state, aux)"],
    ),
    "shape": (
        STATE,
        lambda s: s | {"w": s["w"][None]},
        ["state['w']: float32[2] came in, float32[1,2] went out", "in the shape of the old one"],
    ),
    "dtype": (
        STATE,
        lambda s: s | {"n": s["n"] + 0.5},
        [
            "state['n']: int32[] came in, float32[] went out",
            "new.astype(old.dtype)",
            "initial state",
        ],
    ),
    "precision": (
        STATE,
        lambda s: s | {"w": s["w"].astype(jnp.bfloat16)},
        ["state['w']: float32[2] came in, bfloat16[2] went out"],
    ),
    "a key's data": (
        {"k": jax.random.key(0)},
        lambda s: {"k": jax.random.key_data(s["k"])},
        ["state['k']: key<fry>[]", "uint32[2]", "A key stays a key"],
    ),
    "text for an array": (
        STATE,
        lambda s: s | {"w": "w"},
        ["state['w']: float32[2] came in, 'w' went out", "as an array"],
    ),
    "an array for text": (
        {"w": W, "name": "a"},
        lambda s: s | {"name": s["w"]},
        ["state['name']: 'a' came in, float32[2] went out"],
    ),
    "other text": (
        {"w": W, "name": "a"},
        lambda s: s | {"name": "b"},
        ["not arrays", "state['name']: 'a' came in, 'b' went out", "constants of the compilation"],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_step_that_changes_the_state(name):
    state, change, says = CHANGES[name]
    refused(
        TypeError,
        "the step",
        *says,
        step=lambda s, z, x: change(s),
        state=state,
        outer=lambda s: jnp.asarray(1.0),
    )


def test_all_changed_leaves_are_listed():
    change = lambda s, z, x: {"w": s["w"][:1], "n": s["n"].astype(jnp.int8)}
    refused(
        TypeError,
        "state['n']: int32[] came in, int8[] went out",
        "state['w']: float32[2] came in, float32[1] went out",
        step=change,
        state=STATE,
    )


@pytest.mark.parametrize(
    "result, says",
    [(lambda s: s, "it returned a dict"), (lambda s: (s, 1, 2), "it returned a tuple of length 3")],
)
def test_step_without_the_aux_it_promised(result, says):
    refused(
        ValueError,
        "decorated with has_aux=True",
        "must return (new_state, aux)",
        says,
        step=lambda s, z, x: result(s),
        state=STATE,
        step_has_aux=True,
    )


# --- Batches --------------------------------------------------------------------------------------

BATCHES = {
    "unequal": (
        {"x": XS, "y": jnp.ones(4)},
        ["equal leading axes", "batches['x']: 3", "batches['y']: 4"],
    ),
    "none": (
        None,
        [
            "batches is None without an array leaf",
            "number of training steps is unknown",
            "batches=jnp.arange(T)",
        ],
    ),
    "no arrays": (
        {"name": "digits"},
        ["batches is a dict without an array leaf", "leading axis of length T"],
    ),
    "an iterator": (iter([W]), ["batches is a list_iterator without an array leaf"]),
    "a scalar leaf": (
        {"x": XS, "rate": Z},
        ["leading axis of length T", "batches['rate'] is a scalar"],
    ),
    "a number": (3, ["batches is a scalar"]),
    "no steps": (
        {"x": XS[:0]},
        ["batches['x'] has a leading axis of length 0", "no training step", "at least one batch"],
    ),
}


@pytest.mark.filterwarnings("ignore:Python iterable type")
@pytest.mark.parametrize("name", BATCHES)
def test_batches(name):
    batches, says = BATCHES[name]
    refused(ValueError, *says, batches=batches)


# --- The outer function ---------------------------------------------------------------------------


def not_scalar(state):
    return state[None]


OUTERS = {
    "a matrix": (
        not_scalar,
        ["`not_scalar`", "a vector of them", "float32[1,2]", "Reduce it (jnp.mean, jnp.sum;"],
    ),
    "a vector of integers": (lambda s: s.astype(jnp.int32), ["int32[2]"]),
    "an integer": (
        lambda s: jnp.sum(s).astype(jnp.int32),
        ["one floating-point scalar", "int32[]"],
    ),
    "a boolean": (lambda s: jnp.all(s), ["bool[]"]),
    "a tuple": (lambda s: (jnp.sum(s), s), ["a tuple of length 2", "as aux (has_aux=True)"]),
    "a dict": (lambda s: {"loss": jnp.sum(s)}, ["a dict"]),
    "nothing": (lambda s: None, ["it returned None"]),
    "text": (lambda s: "loss", ["a str"]),
    "complex": (
        lambda s: jnp.sum(s) * 1j,
        ["what the outer function", "returns is complex64", "real"],
    ),
}


@pytest.mark.parametrize("name", OUTERS)
def test_outer_function_that_is_not_a_scalar(name):
    outer, says = OUTERS[name]
    refused(TypeError, *says, outer=outer)


def test_outer_function_without_a_query():
    refused(
        ValueError, "`<lambda>` returned a vector of length 0", "no query", outer=lambda s: s[:0]
    )


def test_outer_function_without_the_aux_it_promised():
    refused(
        ValueError,
        "metagradient(has_aux=True): `total` must return (value, aux); it returned float32[]",
        has_aux=True,
    )


def test_outer_that_is_no_function():
    refused(TypeError, "outer must be a function of the final state, not 3", outer=3)


def test_outer_arguments_that_are_missing():
    refused(
        TypeError,
        "missing 1 required positional argument: 'held_out'",
        outer=lambda s, held_out: jnp.sum(s),
    )


# --- wrt ------------------------------------------------------------------------------------------

CHOICES = '"meta", "state", "batches"'


@pytest.mark.parametrize(
    "wrt, says",
    [
        ((), ["wrt=() names nothing", CHOICES, "or a tuple of them"]),
        (None, ["wrt=None names nothing", CHOICES]),
        (0, ["wrt=0 names nothing", CHOICES]),
        ("weights", ["'weights' is none of", CHOICES]),
        ("", ["'' is none of", CHOICES]),
        (("meta", "data"), ["'data' is none of", CHOICES]),
        (("meta", 1), ["1 is none of", CHOICES]),
        (("meta", "state", "meta"), ["names 'meta' twice", "each once"]),
    ],
    ids=str,
)
def test_wrt(wrt, says):
    refused(ValueError, *says, wrt=wrt)


WITHOUT_FLOATS = {
    "integers": (
        "meta",
        {"meta": {"a": 2, "b": jnp.arange(3)}},
        ["meta['a'] int32[], meta['b'] int32[3]"],
    ),
    "a key": ("meta", {"meta": {"k": jax.random.key(0)}}, ["meta['k'] key<fry>[]"]),
    "no arrays": ("meta", {"meta": None}, ["no arrays at all"]),
    "indices": ("batches", {"batches": jnp.arange(3)}, ["batches int32[3]"]),
    "a counter": (("meta", "state"), {"state": jnp.asarray(1, jnp.int32)}, ["state int32[]"]),
}


@pytest.mark.parametrize("name", WITHOUT_FLOATS)
def test_no_floating_point_leaf(name):
    wrt, arguments, says = WITHOUT_FLOATS[name]
    refused(
        TypeError,
        f'wrt names "{wrt if isinstance(wrt, str) else wrt[-1]}"',
        "no floating-point leaf",
        *says,
        "as floating-point arrays",
        step=lambda s, z, x: s,
        outer=lambda s: jnp.sum(s) * 1.0,
        wrt=wrt,
        **arguments,
    )


@pytest.mark.parametrize(
    "path, arguments",
    [
        ("state['w']", {"state": {"w": W + 1j}}),
        ("meta[0][1]", {"meta": [(Z, Z + 1j)]}),
        ("batches", {"batches": XS + 1j}),
    ],
)
def test_complex_leaves(path, arguments):
    refused(
        TypeError,
        f"{path} is complex64",
        "real leaves only",
        "Hold real and imaginary parts apart",
        **arguments,
    )


def test_symbolic_shapes():
    mg = metagrad.compile(lambda w, rate, x: w - rate * x).metagradient(jnp.sum)
    shape = jax.export.symbolic_shape("2, n")
    exported = jax.export.export(jax.jit(lambda x: mg(jnp.ones(3), 0.1, x).value))
    with pytest.raises(NotImplementedError, match=r"batches has the shape \(2, n\), with a dim"):
        exported(jax.ShapeDtypeStruct(shape, jnp.float32))


def test_complex_outer_argument():
    with pytest.raises(TypeError, match=r"outer_args\[1\]\['c'\] is complex64"):
        lower(descend, W, Z, XS, 1.0, {"c": 1j}, outer=lambda s, a, b: jnp.sum(s))


def test_leaf_that_is_neither_an_array_nor_hashable():
    mg = metagrad.compile(lambda s, z, x: s * z["a"]).metagradient(total)
    with pytest.raises(
        TypeError,
        match=r"meta\['b'\] is \{1\}, which is neither an array nor hashable.*tuple or a frozenset",
    ):
        mg(W, {"a": Z, "b": {1}}, XS)
