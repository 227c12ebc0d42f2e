"""What a metagradient must equal: `jax.grad` of a Python loop over the plain step."""

import operator

import jax
import jax.numpy as jnp
import numpy as np

DOUBLE = 1e-11
SINGLE = 1e-5

GROUPS = ("state", "meta", "batches")


def is_array(leaf):
    return hasattr(leaf, "dtype") or isinstance(leaf, (bool, int, float))


def is_float(leaf):
    return is_array(leaf) and jnp.issubdtype(
        jnp.result_type(leaf) if not hasattr(leaf, "dtype") else leaf.dtype, np.floating
    )


def split(tree, keep):
    """The leaves that `keep` holds for, and a function that puts them back among the others."""
    leaves, structure = jax.tree.flatten(tree)
    where = [i for i, leaf in enumerate(leaves) if keep(leaf)]

    def rebuild(chosen):
        filled = list(leaves)
        for i, leaf in zip(where, chosen):
            filled[i] = leaf
        return jax.tree.unflatten(structure, filled)

    return [leaves[i] for i in where], rebuild


def jitted(function):
    """`jax.jit` of a function whose arguments may have leaves that are not arrays."""
    compiled = {}

    def call(*args):
        arrays, rebuild = split(args, is_array)
        key = jax.tree.structure(args)
        if key not in compiled:
            results = {}

            def flat(arrays):
                out, results["rebuild"] = split(function(*rebuild(arrays)), is_array)
                return out

            compiled[key] = jax.jit(flat), results
        run, results = compiled[key]
        out = run(arrays)
        return results["rebuild"](out)

    return call


def unrolled(
    step, outer, wrt, state, meta, batches, *outer_args, step_has_aux=False, has_aux=False
):
    """(value, gradient, final state) by `jax.grad` of the Python loop.

    Of a vector it is `jax.jacrev`. Leaves that are not floating point have float0 zeros.
    """
    arguments = {"state": state, "meta": meta, "batches": batches}
    names = (wrt,) if isinstance(wrt, str) else wrt
    parts = {name: split(arguments[name], is_float) for name in names}
    steps = len(jax.tree.leaves(batches)[0])
    run, end = jitted(step), jitted(lambda s, args: outer(s, *args))

    def phi(floats):
        trees = arguments | {name: parts[name][1](floats[name]) for name in names}
        s = trees["state"]
        for t in range(steps):
            s = run(s, trees["meta"], jax.tree.map(operator.itemgetter(t), trees["batches"]))
            s = s[0] if step_has_aux else s
        value = end(s, outer_args)
        final.append(jax.tree.leaves(s))
        return value[0] if has_aux else value

    final = []
    floats = {name: [jnp.asarray(leaf) for leaf in parts[name][0]] for name in names}
    value = phi({name: parts[name][0] for name in names})
    gradients = (jax.jacrev if np.shape(value) else jax.grad)(phi)(floats)
    final_state = final[0]

    def whole(name):
        zeros = jax.tree.map(
            lambda leaf: (
                np.zeros((*np.shape(value), *np.shape(leaf)), jax.dtypes.float0)
                if is_array(leaf)
                else leaf
            ),
            arguments[name],
        )
        return split_like(zeros, arguments[name], gradients[name])

    grad = whole(wrt) if isinstance(wrt, str) else tuple(whole(name) for name in wrt)
    return value, grad, jax.tree.unflatten(jax.tree.structure(state), final_state)


def split_like(zeros, tree, floats):
    floats = iter(floats)
    leaves = [
        next(floats) if is_float(leaf) else zero
        for leaf, zero in zip(jax.tree.leaves(tree), jax.tree.leaves(zeros))
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def numbers(leaf):
    if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(leaf))
    return np.asarray(leaf)


def assert_close(got, want, tolerance, what="gradient"):
    """Same structure, and NaN and infinities where they are wanted.

    Each leaf is within `tolerance` of the largest entry of the leaf that is wanted.
    """
    assert jax.tree.structure(got) == jax.tree.structure(want), what
    paths = [
        what + jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_flatten_with_path(want)[0]
    ]
    for path, g, w in zip(paths, jax.tree.leaves(got), jax.tree.leaves(want)):
        if not is_array(w):
            assert g is w or g == w, path
            continue
        g, w = numbers(g), numbers(w)
        assert g.shape == w.shape, path
        if not jnp.issubdtype(w.dtype, np.floating):
            assert g.dtype == w.dtype, path
            if w.dtype != jax.dtypes.float0:
                np.testing.assert_array_equal(g, w, path)
            continue
        g, w = g.astype(np.float64), w.astype(np.float64)
        finite = np.isfinite(w)
        np.testing.assert_array_equal(
            np.where(np.isfinite(g), 0, g), np.where(finite, 0, w), f"{path}: NaN or infinity"
        )
        if finite.any():
            error, scale = np.abs(g[finite] - w[finite]).max(), np.abs(w[finite]).max()
            assert error <= tolerance * scale, (
                f"{path}: relative error {error / scale if scale else error:.2e}"
            )


def assert_exact(
    step,
    outer,
    wrt,
    *arguments,
    tolerance=DOUBLE,
    schedule=None,
    step_has_aux=False,
    has_aux=False,
    remat="auto",
):
    """Compiles and runs the metagradient, and compares value, gradient and final state.

    Gives (result, lowered).
    """
    mg = step.metagradient(outer, wrt, schedule=schedule, has_aux=has_aux, remat=remat)
    lowered = mg.lower(*arguments)
    result = lowered.compile()(*arguments)
    value, grad, state = unrolled(
        step, outer, wrt, *arguments, step_has_aux=step_has_aux, has_aux=has_aux
    )
    assert_close(result.value[0] if has_aux else result.value, value, tolerance, "value")
    assert_close(result.grad, grad, tolerance)
    assert_close(result.state, state, tolerance, "state")
    return result, lowered


def who(lowered):
    """The rule by which each function is differentiated, in order: gradients, update, outer."""
    return [decision.rule for decision in lowered.decisions]
