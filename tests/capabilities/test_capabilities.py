"""The table of proven primitives against its evidence: what Enzyme gives for each case is what JAX gives."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.nn import functions

from metagrad.frontend.capabilities import CALLS, CAPABILITIES, overrides, unproven

sys.path.insert(0, str(Path(__file__).parent))
from cases import CASES  # noqa: E402

HERE = Path(__file__).parent
PROGRAM = HERE / "enzyme_against_jax.py"

# In bfloat16 sums round to anything up to a few percent; these cases are short enough to be compared.
SHORT = [n for n in CASES if n in {"matmul", "batched matmul", "softmax", "relu", "max 0", "reduce_max", "sqrt", "silu", "sort", "scan", "take plain fill",
                                   "conv strided", "pool max 2x2", "where 0", "clip", "pad", "cumsum 0", "mul", "add"}]


def chunks(names, n, dtype):
    return [[(name, dtype) for name in names[i::n]] for i in range(n)]


# What the dtype changes is where things overflow: float32 is compared where edges are.
EDGED = [n for n, c in CASES.items() if c.elementwise or c.proves == ("models",)]
CHUNKS = [*chunks(list(CASES), 6, "float64"), *chunks(EDGED, 3, "float32"), *chunks(SHORT, 1, "bfloat16")]


def compare(pairs):
    """Runs the pairs in a process of their own; if Enzyme takes it down, each half in one, to name the case."""
    done = subprocess.run([sys.executable, PROGRAM], input=json.dumps(pairs), capture_output=True, text=True, cwd=HERE)
    if done.returncode == 0:
        return json.loads(done.stdout)
    if len(pairs) > 1:
        half = len(pairs) // 2
        return compare(pairs[:half]) + compare(pairs[half:])
    (name, dtype), = pairs
    last = done.stderr.strip().splitlines()[-5:]
    return [{"case": name, "dtype": dtype, "differences": [{"kind": "differs", "what": "Enzyme failed", "first": last}]}]


@pytest.mark.parametrize("pairs", CHUNKS, ids=lambda pairs: f"{pairs[0][1]}-{pairs[0][0].replace(' ', '_')}")
def test_enzyme_gives_what_jax_gives(pairs):
    wrong = [
        f"{r['case']} ({r['dtype']}), {d['what']}: (index, Enzyme, JAX) = {d['first']}"
        for r in compare(pairs) for d in r["differences"] if d["kind"] == "differs"
    ]
    assert not wrong, "\n".join(wrong)


def traced(case):
    return jax.make_jaxpr(case.fn)(*(np.asarray(a, np.float32) if np.asarray(a).dtype == np.float64 else a for a in case.inputs))


def primitives_in(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn.primitive
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from primitives_in(inner)


def test_every_entry_of_the_table_has_a_case():
    shown = {"reverse": set(), "forward": set()}
    for case in CASES.values():
        present = {p for p in primitives_in(traced(case).jaxpr) if p.name in case.proves}
        shown["reverse"] |= present
        if case.orders == 2:
            shown["forward"] |= present
    claimed = {mode: {p for p, c in CAPABILITIES.items() if mode in c.modes} for mode in shown}
    missing = {mode: sorted(p.name for p in claimed[mode] - shown[mode]) for mode in shown}
    assert missing == {"reverse": [], "forward": []}


@pytest.mark.parametrize("name", CASES)
def test_the_table_admits_the_case(name):
    case = CASES[name]
    for mode in ("reverse", "forward")[: case.orders]:
        assert unproven(traced(case), mode) == []


# --- What the table must not admit -------------------------------------------------------------------------------

X = jnp.arange(1.0, 4.0)


@jax.custom_jvp
def relu(x):
    return jnp.maximum(x, 0.0)


relu.defjvps(lambda g, ans, x: 7.0 * g)

relu_inside = jax.custom_jvp(jax.nn.relu.fun)
relu_inside.defjvps(lambda g, ans, x: 7.0 * g)
softmax_inside = jax.custom_jvp(functions._softmax.fun, nondiff_argnums=(1,))
softmax_inside.defjvp(lambda axis, primals, tangents: (softmax_inside(primals[0], axis), 7.0 * tangents[0]))


@jax.custom_vjp
def clipped(x):
    return x


clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -1, 1),))

REFUSED = {
    "a rule of the user's, by the name of JAX's": (relu, X, "custom_jvp_call"),
    "a rule of the user's, for the function inside JAX's": (relu_inside, X, "custom_jvp_call"),
    "a rule of the user's, for the function inside JAX's with an axis": (lambda x: softmax_inside(x, 0), X, "custom_jvp_call"),
    "custom_vjp": (clipped, X, "custom_vjp_call"),
    "complex numbers": (lambda x: jnp.abs(jnp.fft.fft(x)).sum(), X, "fft"),
    "while": (lambda x: jax.lax.while_loop(lambda c: c[0] < 9, lambda c: c * 2, x), X, "while"),
    "a padding value": (lambda x: jax.lax.pad(x, x[0], ((1, 1, 0),)), X, "pad"),
    "set at repeated indices": (lambda x: x.at[jnp.array([0, 0])].set(x[:2]), X, "scatter"),
    "scatter multiply": (lambda x: x.at[jnp.array([0, 1])].multiply(x[:2]), X, "scatter_mul"),
    "a large window": (lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (65,), (1,), "SAME"), jnp.ones(99), "reduce_window_sum"),
    "cholesky": (lambda x: jnp.linalg.cholesky(jnp.diag(x)), X, "cholesky"),
    "inside jit": (lambda x: jax.jit(clipped)(x), X, "custom_vjp_call"),
    "inside remat": (lambda x: jax.checkpoint(clipped)(x), X, "custom_vjp_call"),
    "inside a branch": (lambda x: jax.lax.cond(x[0] > 0, clipped, jnp.sin, x), X, "custom_vjp_call"),
    "inside scan, active from the second turn": (
        lambda x: jax.lax.scan(lambda c, t: ((c[1], c[1] * t), clipped(c[0])), (jnp.zeros(()), jnp.ones(())), x)[1], X, "custom_vjp_call"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_table_refuses(name):
    fn, x, primitive = REFUSED[name]
    found = unproven(jax.make_jaxpr(fn)(x), "reverse")
    assert primitive in {u.primitive.replace("-", "_") for u in found}
    assert all(u.why for u in found)


def test_refusal_names_the_users_line():
    def fn(x):
        return clipped(x)  # this line

    (found,) = unproven(jax.make_jaxpr(fn)(X), "reverse")
    line = next(i for i, text in enumerate(Path(__file__).read_text().splitlines(), 1) if text.endswith("# this line"))
    assert f"{Path(__file__).name}:{line}" in found.source


ADMITTED = {
    "behind stop_gradient": lambda x: x * jax.lax.stop_gradient(x),
    "of a constant": lambda x: x * clipped(jnp.arange(3.0)),
    "of integers": lambda x: x * clipped(jnp.argmax(x).astype(jnp.float32)),
    "random bits": lambda x: x * jax.random.normal(jax.random.key(0), x.shape),
    "an inactive turn": lambda x: jax.lax.scan(lambda c, t: (c, clipped(c) * t), jnp.ones(()), x)[1],
}


@pytest.mark.parametrize("name", ADMITTED)
def test_what_no_derivative_reaches_needs_no_proof(name):
    assert unproven(jax.make_jaxpr(ADMITTED[name])(X), "forward") == []


def test_active_inputs_can_be_named():
    jaxpr = jax.make_jaxpr(lambda x, y: x * clipped(y))(X, X)
    assert unproven(jaxpr, "reverse", active=[True, False]) == []
    assert [u.primitive for u in unproven(jaxpr, "reverse", active=[True, True])] == ["custom_vjp_call"]


def test_mode_is_checked():
    with pytest.raises(ValueError, match="mode must be 'reverse' or 'forward', not 'both'"):
        unproven(jax.make_jaxpr(jnp.sin)(X), "both")


def test_overrides_are_for_primitives_of_the_table_and_custom_rules():
    names = [p.name for p, _ in overrides()]
    assert len(names) == len(set(names))
    assert set(names) <= {p.name for p in itertools.chain(CAPABILITIES, CALLS)} | {"custom_jvp_call", "stop_gradient"}
