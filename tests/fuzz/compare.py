"""One program: its metagradient, JAX's gradient of the unrolled run, and the verdict.

agree             value, gradient, final state and auxiliary outputs are JAX's to 1e-11 (1e-5
                  if a value anywhere in the run is f32, 3e-2 if one is bf16)
not finite        JAX's gradient is not finite, and metagrad's is not in the same leaves
unstable          they differ, and JAX's own gradient moves as much when its inputs move by a
                  rounding error. Ties and zeros in the data do not move
refused           metagrad says that it does not do this, by an error of its frontend
wrong             they differ
NaN for a number  they differ, and metagrad's is not finite where JAX's is
crash             any other exception
invalid           JAX itself refuses the program (only shrinking makes such)
hang, died        worker.py saw no answer
"""

import collections
import contextlib
import operator
import time
import traceback
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from . import source

TOLERANCE = {"float64": 1e-11, "float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
ROUNDING = {"float64": 4e-16, "float32": 2e-7, "float16": 1e-3, "bfloat16": 1e-2}
AMPLIFIED = 100.0
"""A difference of up to this many times what JAX's own gradient moves by is rounding: three
perturbations are a small sample.
"""


def run(text):
    """The program's names."""
    scope = {}
    exec(compile(text, "<program>", "exec"), scope)
    return scope


def is_float(leaf):
    return jnp.issubdtype(
        jax.dtypes.result_type(leaf) if isinstance(leaf, (bool, int, float)) else leaf.dtype,
        jnp.floating,
    )


class Reference:
    """JAX's gradient of the run, compiled once.

    `looped` writes the steps as a `lax.scan`, whose compile time does not grow with them; without
    it they are unrolled.
    """

    def __init__(self, scope, program, looped):
        self.steps, self.step_aux, self.outer_aux = (
            program["steps"],
            program["step_aux"],
            program["outer_aux"],
        )
        self.around = program["around"]
        self.step, self.outer, self.wrt, self.looped = (
            scope["step"],
            scope["outer"],
            program["wrt"],
            looped,
        )
        self.run = jax.jit(jax.value_and_grad(self.phi, has_aux=True, allow_int=True))

    def phi(self, wanted, state, meta, batches, outer_args):
        values = {"state": state, "meta": meta, "batches": batches} | wanted
        state, meta, batches = values["state"], values["meta"], values["batches"]

        def step(state, batch):
            out = self.step(state, meta, batch)
            return out if self.step_aux else (out, None)

        if self.looped:
            state, aux = jax.lax.scan(step, state, batches)
        else:
            auxes = []
            for t in range(self.steps):
                state, aux = step(state, jax.tree.map(operator.itemgetter(t), batches))
                auxes.append(aux)
            aux = jax.tree.map(lambda *leaves: jnp.stack(leaves), *auxes)
        value = self.outer(state, *outer_args)
        value, extra = value if self.outer_aux else (value, None)
        return value, (state, extra, aux)

    def differentiated_first(self, arguments):
        """The arguments of `phi`: a dict of what `wrt` names, and then all of them."""
        named = dict(zip(("state", "meta", "batches"), arguments))
        return {name: named[name] for name in self.wrt}, *arguments

    def __call__(self, arguments):
        (value, (state, extra, aux)), grad = self.run(*self.differentiated_first(arguments))
        return {
            "value": value,
            "gradient": grad,
            "state": state,
            "outer aux": extra,
            "step aux": aux,
            "around": _times(jnp.cos(value), grad) if self.around else None,
        }


def _times(factor, tree):
    """The tree, its floats times a factor, each in its own dtype, which is that of JAX's gradient;
    floats that are none (float0) stay.
    """
    double = lambda x: jnp.asarray(x, jnp.float64)
    one = lambda leaf: (double(factor) * double(leaf)).astype(leaf.dtype)
    return jax.tree.map(lambda leaf: leaf if leaf.dtype == jax.dtypes.float0 else one(leaf), tree)


def ours(scope, program, arguments):
    """The metagradient in the same form, and what its lowering said."""
    lowered, run = None, scope["mg"]
    if len(scope["calls"]) == 1 and not (program["closure"] or program["around"]):
        lowered = run.lower(*arguments[:3], *arguments[3])
        run = lowered.compile()
    result = run(*arguments[:3], *arguments[3])
    value, extra = result.value if program["outer_aux"] else (result.value, None)
    grad = (result.grad,) if program["single"] else result.grad
    named = dict(zip(("state", "meta", "batches"), arguments))
    wanted = {name: named[name] for name in program["wrt"]}
    return {
        "value": value,
        "gradient": dict(zip(program["wrt"], grad)),
        "state": result.state,
        "outer aux": extra,
        "step aux": result.aux if program["step_aux"] else None,
        "around": jax.grad(scope["value_of"], allow_int=True)(wanted, *arguments)
        if program["around"]
        else None,
    }, lowered


def numbers(tree):
    """path -> numpy array of each leaf."""
    arrays = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        leaf = np.asarray(leaf)
        arrays[jax.tree_util.keystr(path)] = (
            leaf.astype(np.float64) if jnp.issubdtype(leaf.dtype, np.floating) else leaf
        )
    return arrays


def distances(got, want):
    """path -> (largest difference, largest entry that is wanted), of the leaves that are not equal;
    infinite where one is finite and the other is not.
    """
    distances = {}
    for path, w in want.items():
        g = got[path]
        if g.shape != w.shape or (w.dtype != np.float64 and g.dtype != w.dtype):
            distances[path] = np.inf, 0.0
        elif w.dtype != np.float64:
            if w.dtype != jax.dtypes.float0 and not np.array_equal(g, w):
                distances[path] = np.inf, 0.0
        elif not np.array_equal(np.isfinite(g), np.isfinite(w)):
            distances[path] = np.inf, np.abs(w[np.isfinite(w)]).max(initial=0.0)
        else:
            finite = np.isfinite(w)
            distances[path] = (
                np.abs(g[finite] - w[finite]).max(initial=0.0),
                np.abs(w[finite]).max(initial=0.0),
            )
    return distances


def precision(jaxpr):
    """The lowest precision of any value in a jaxpr: an optimiser may keep a rate in f32, JAX's
    attention takes its softmax in f32. `reduce_precision` rounds tangents and cotangents as well,
    where they happen to be.
    """
    dtypes, queue = set(), [jaxpr]
    while queue:
        jaxpr = queue.pop()
        for eqn in jaxpr.eqns:
            dtypes |= {
                str(var.aval.dtype)
                for var in (*eqn.invars, *eqn.outvars)
                if hasattr(var.aval, "dtype")
            }
            if eqn.primitive.name == "reduce_precision":
                bits = eqn.params["mantissa_bits"]
                dtypes |= {name for name in TOLERANCE if bits <= jnp.finfo(name).nmant}
            values = jax.tree.leaves(
                list(eqn.params.values()),
                is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr"),
            )
            queue += [
                inner
                for inner in (getattr(value, "jaxpr", value) for value in values)
                if hasattr(inner, "eqns")
            ]
    return next(dtype for dtype in reversed(TOLERANCE) if dtype in dtypes | {"float64"})


def moved(tree, seed, by):
    """The tree with every number moved by about a rounding error, the same numbers by the same
    error; halves stay, so that ties and zeros do.
    """

    def one(leaf):
        if isinstance(leaf, (bool, int)) or not is_float(leaf):
            return leaf
        x = np.asarray(leaf).astype(np.float64)
        bits = np.frombuffer(x.tobytes(), np.uint64).reshape(x.shape)
        sign = np.where(
            (bits * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)) >> np.uint64(60)
            & np.uint64(1),
            1.0,
            -1.0,
        )
        x = np.where(2 * x == np.round(2 * x), x, x * (1 + by * sign))
        return float(x) if isinstance(leaf, float) else jnp.asarray(x, leaf.dtype)

    return jax.tree.map(one, tree)


def compare(program, reached=lambda: None):
    """The verdict: a dict with "class", "detail", and what the summary counts.

    Calls `reached` when JAX has its gradient. The first call that does not agree decides.
    """
    try:
        scope = run(source.render(program))
    except Exception as error:  # what shrinking leaves may be ill-typed
        return {"class": "invalid", "detail": f"{type(error).__name__}: {error}"[:500]}
    arguments = scope["state"], scope["meta"], scope["batches"], scope["outer_args"]
    report = None
    for number, (settings, other) in enumerate(scope["calls"]):
        if other:
            # Outside of the settings, which may refuse what makes the leaves.
            called = *(jax.tree.map(other, tree) for tree in arguments[:3]), arguments[3]
        with _settings(settings):
            new = _compare_call(program, scope, called if other else arguments, reached)
        if new["class"] == "invalid" and report:
            return report  # JAX refuses the program under the settings of a later call
        if number and new["class"] != "agree":
            new["detail"] = f"call {number}, {settings}: {new['detail']}"
        if new["class"] not in ("agree", "unstable", "not finite"):
            return new
        report = report or new
    return report


@contextlib.contextmanager
def _settings(settings):
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def _compare_call(program, scope, arguments, reached):
    began = time.monotonic()
    try:
        oracle = Reference(scope, program, looped=program["steps"] > 2)
        want = oracle(arguments)
    except (
        Exception
    ) as error:  # JAX does not take this program: what shrinking leaves may be ill-typed
        return {"class": "invalid", "detail": f"{type(error).__name__}: {error}"[:500]}
    middle = time.monotonic()
    reached()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            got, lowered = ours(scope, program, arguments)
    except Exception as error:  # whatever it raises is what is looked for
        return {
            "class": _class(error),
            "detail": f"{type(error).__name__}: {error}"[:2000],
            "where": _where(error),
        }
    report = {
        "rules": [d.rule for d in lowered.decisions] if lowered else [],
        "warnings": [
            str(w.message)[:500] for w in caught if "JAX differentiates" in str(w.message)
        ],
    }
    report["seconds"] = [middle - began, time.monotonic() - middle]
    return report | _verdict(got, scope, program, want, oracle, arguments)


def _verdict(got, scope, program, want, oracle, arguments):
    shape = jax.tree.structure(got), jax.tree.structure(want)
    if shape[0] != shape[1]:
        return {"class": "wrong", "detail": f"structure {shape[0]} instead of {shape[1]}"}
    if other := _other_dtypes(got, want):
        return {"class": "wrong", "detail": other}
    got, want = numbers(got), numbers(want)
    dtype = "float64"
    if _apart(got, want, dtype):
        dtype = precision(oracle.run.trace(*oracle.differentiated_first(arguments)).jaxpr.jaxpr)
    if oracle.looped and (_apart(got, want, dtype) or not _finite(want)):
        # What counts is the unrolled run: a loop's derivative may round differently, and has zeros
        # where the unrolled one has nothing at all.
        oracle = Reference(scope, program, looped=False)
        want = numbers(oracle(arguments))
    apart = _apart(got, want, dtype)
    if not apart:
        return {"class": "agree" if _finite(want) else "not finite", "detail": ""}
    moves = collections.defaultdict(float)  # a leaf that does not move is in no distance
    for seed, by in ((1, 1), (5, 1), (9, 3)):
        other = numbers(
            oracle(tuple(moved(tree, seed, by * ROUNDING[dtype]) for tree in arguments))
        )
        for path, (d, _) in distances(other, want).items():
            moves[path] = max(moves[path], d)
    largest = max(
        (
            np.abs(w[np.isfinite(w)]).max(initial=0.0)
            for w in want.values()
            if w.dtype == np.float64
        ),
        default=0.0,
    )
    noise = 10 * ROUNDING[dtype] * largest
    lines = [
        f"{path}: differs by {d:.1e}, largest {s:.1e}, JAX's own moves by {moves[path]:.1e}"
        for path, (d, s) in apart.items()
    ]
    explained = all(d <= AMPLIFIED * moves[path] or d <= noise for path, (d, _) in apart.items())
    kind = (
        "unstable"
        if explained
        else "NaN for a number"
        if not _finite({path: got[path] for path in apart})
        and _finite({path: want[path] for path in apart})
        else "wrong"
    )
    return {
        "class": kind,
        "detail": "\n".join(lines),
        "relative": float(max(d / s if s else np.inf for d, s in apart.values())),
    }


def _other_dtypes(got, want):
    """The leaves, a line each, that have another dtype than JAX's."""
    leaves = jax.tree_util.tree_flatten_with_path(want)[0]
    return "\n".join(
        f"{jax.tree_util.keystr(path)}: {g.dtype} instead of {w.dtype}"
        for (path, w), g in zip(leaves, jax.tree.leaves(got), strict=True)
        if hasattr(w, "dtype") and g.dtype != w.dtype
    )


def _apart(got, want, dtype):
    return {
        path: (d, s)
        for path, (d, s) in distances(got, want).items()
        if not d <= TOLERANCE[dtype] * s
    }


def _finite(arrays):
    return all(np.isfinite(a).all() for a in arrays.values() if a.dtype == np.float64)


def _where(error):
    """The innermost frame of metagrad's."""
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if "/metagrad/" in f.filename
        or "/frontend/" in f.filename
        or "/compiler/" in f.filename
        or "/runtime/" in f.filename
    ]
    return (
        f"{frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno} in {frames[-1].name}"
        if frames
        else ""
    )


def _class(error):
    """refused: an error that the frontend raised itself and that is meant for the user.

    What a function of NumPy's raises that it calls is none, though no line of Python comes after.
    """
    last = traceback.extract_tb(error.__traceback__)[-1]
    ours = any(f"/{part}/" in last.filename for part in ("frontend", "api"))
    meant = isinstance(error, (TypeError, ValueError, NotImplementedError, FloatingPointError))
    return "refused" if meant and ours and last.line.startswith("raise ") else "crash"
