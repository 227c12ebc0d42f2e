"""Random programs, well-typed by construction: each operation is traced by JAX on the shapes that
are there before it is taken.

A program is a dict of dicts, lists, numbers and strings (JSON), see `program` below. The same seed
and number give the same program, and no program depends on another.
"""

import functools
import random

import jax
import jax.numpy as jnp

from . import (
    arrays,
    captured,
    elementwise,
    libraries,
    low_precision,
    source,
    surroundings,
    templates,
    training,
)
from .control import STRUCTURED

ATTRIBUTES = templates.ATTRIBUTES | captured.ATTRIBUTES | low_precision.ATTRIBUTES

LARGEST = 36
"""Elements of a value; XLA's time is in the number of operations, and that of the eye in the
numbers of a failure.
"""

GROUPS = [
    (2.0, elementwise.SMOOTH),
    (2.5, elementwise.EDGED),
    (2.0, elementwise.ACTIVATIONS),
    (3.0, arrays.REDUCTIONS),
    (1.5, arrays.SHAPES),
    (4.0, arrays.BINARY),
    (0.8, arrays.WINDOWS),
    (2.5, arrays.INDEXED),
    (0.8, arrays.LOSSES),
    (0.3, arrays.LINEAR_ALGEBRA),
    (0.1, elementwise.CASTS),
    (2.0, captured.CAPTURED),
    (2.0, libraries.LAYERS),
    (0.6, low_precision.PRODUCTS),
    (2.5, list(STRUCTURED.values())),
]


def kind(aval):
    if jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
        return "k"
    return "f" if jnp.issubdtype(aval.dtype, jnp.floating) else "b" if aval.dtype == bool else "i"


def equations(jaxpr):
    """How many equations a jaxpr holds, inner ones included: what it costs to compile."""
    inner = (
        value
        for eqn in jaxpr.eqns
        for value in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")
        )
    )
    return len(jaxpr.eqns) + sum(
        equations(getattr(value, "jaxpr", value))
        for value in inner
        if hasattr(getattr(value, "jaxpr", value), "eqns")
    )


@functools.cache
def definitions():
    """All names that a program may have around its functions. To be called in f64."""
    scope = {}
    exec("\n".join([source.IMPORTS, source.DATA, *source.SUPPORT.values()]), scope)
    return scope


class Writer:
    """Writes the nodes of functions.

    `values` is what is in scope, name -> shape and dtype; `budget` the number of equations that may
    still be written.
    """

    def __init__(self, rng, budget):
        self.rng, self.budget, self.counter = rng, budget, 0

    def name(self, letter):
        self.counter += 1
        return f"{letter}{self.counter}"

    def traced(self, values, node):
        """Shape and dtype of a node's value, or None if JAX refuses it or it does not suit."""
        used = list(values)
        lines = [
            f"def probe({', '.join(used)}):",
            *source.indented(source.statements([node])),
            f"    return {node['name']}",
        ]
        text = "\n".join(lines)
        scope = dict(definitions())
        exec(text, scope)
        try:
            jaxpr, aval = jax.make_jaxpr(scope["probe"], return_shape=True)(*values.values())
        except Exception:  # an operation that these shapes do not allow: whatever JAX raises
            return None
        cost = equations(jaxpr.jaxpr)
        suits = (
            hasattr(aval, "shape")
            and kind(aval) == "f"
            and 0 < aval.size <= LARGEST
            and len(aval.shape) <= 4
            and cost <= self.budget
        )
        if suits:
            self.budget -= cost
        return jax.ShapeDtypeStruct(aval.shape, aval.dtype) if suits else None

    def example(self, values, text):
        """Shape and dtype of an expression of values in scope."""
        scope = {"jax": jax, "jnp": jnp}
        exec(f"probe = lambda {', '.join(values)}: {text}", scope)
        try:
            return jax.eval_shape(scope["probe"], *values.values())
        except Exception:  # `{0}[0]` of a scalar, say
            return None

    def operand(self, values, letter, recent, unread):
        """A value of the kind: the last one that was made, or one that nothing has read, or any."""
        fitting = [name for name, aval in values.items() if kind(aval) == letter]
        if not fitting:
            return None
        if self.rng.random() < 0.6:
            unread = [name for name in fitting if name in unread]
            return fitting[-1] if recent else self.rng.choice(unread or fitting)
        return self.rng.choice(fitting)

    def node(self, values, unread, depth):
        """One random operation on values in scope and its shape, or None if it does not fit."""
        rng = self.rng
        _, group = (
            rng.choices(GROUPS, [w for w, _ in GROUPS])[0]
            if depth < 2
            else rng.choices(GROUPS[:-1], [w for w, _ in GROUPS[:-1]])[0]
        )
        op = rng.choices(group, [op.weight for op in group])[0]
        kinds = getattr(op, "kinds", "ff" if "{1}" in op.template else "f")
        args = [self.operand(values, letter, i == 0, unread) for i, letter in enumerate(kinds)]
        if None in args:
            return None
        attrs = {}
        for key, choose in ATTRIBUTES.items():
            if f"{{{key}}}" in op.template:
                attrs[key] = choose(rng, values[args[0]].shape)
                if attrs[key] is None:
                    return None
        node = {"name": self.name("v"), "op": op.name, "args": args, "attrs": attrs, "bodies": []}
        if op.name in STRUCTURED:
            for _ in range(1 + ("{g}" in op.template)):
                body = self.body(values, op, args, depth)
                if body is None:
                    return None
                node["bodies"].append(body)
        aval = self.traced(values, node)
        return (node, aval) if aval is not None else None

    def body(self, values, op, args, depth):
        inputs = {}
        for text in op.inputs:
            for i, name in enumerate(args):
                text = text.replace(f"{{{i}}}", name)
            aval = self.example(values, text)
            if aval is None:
                return None
            inputs[self.name("a")] = aval
        # Values around the function come first: the most recent ones are its own.
        around = (
            dict(self.rng.sample(list(values.items()), min(2, len(values)))) if op.closes else {}
        )
        scope = {**around, **inputs}
        first = next(iter(inputs.values()))
        nodes = self.nodes(scope, self.rng.choice([1, 1, 2]), depth + 1)
        last = nodes[-1]["name"] if nodes else next(iter(inputs))
        if op.keeps and nodes:
            fitted = {
                "name": self.name("v"),
                "op": "fitted",
                "args": [next(iter(inputs)), last],
                "attrs": {},
                "bodies": [],
            }
            if scope[last].shape == first.shape and scope[last].dtype == first.dtype:
                fitted["op"] = "damped"
            nodes.append(fitted)
            last = fitted["name"]
        return {"name": self.name("f"), "inputs": list(inputs), "nodes": nodes, "out": [last]}

    def nodes(self, values, count, depth):
        """Up to `count` nodes; `values` grows by theirs."""
        nodes, unread = [], set(values)
        for _ in range(4 * count):
            if len(nodes) == count:
                break
            addition = self.node(values, unread, depth)
            if addition:
                node, values[node["name"]] = addition
                nodes.append(node)
                unread -= set(node["args"])
        return nodes

    def graph(self, values, count):
        """A function of all the values: what nothing reads is an output."""
        values = dict(values)
        inputs = list(values)
        nodes = self.nodes(values, count, 0)
        read = set(_read(nodes))
        floats = [name for name, aval in values.items() if kind(aval) == "f"]
        loose = [name for name in floats if name not in read and name not in inputs]
        unread = [name for name in inputs if name in floats and name not in read]
        for name in unread:
            # An input that nothing reads enters with something else that is loose.
            other = loose[-1] if loose else name
            node = {
                "name": self.name("v"),
                "op": "joined",
                "args": [name, other],
                "attrs": {},
                "bodies": [],
            }
            nodes.append(node)
            loose = [*(value for value in loose if value != other), node["name"]]
        return {"nodes": nodes, "out": loose or floats[-1:]}


def _read(nodes):
    for node in nodes:
        yield from node["args"]
        for body in node["bodies"]:
            yield from _read(body["nodes"])
            yield from body["out"]


def _shape(rng, dims):
    n, d, h = dims
    return rng.choice(
        [
            (n, d),
            (n, d),
            (d, h),
            (d, h),
            (h, d),
            (n,),
            (d,),
            (h,),
            (n, h),
            (d, d),
            (),
            (n, 1),
            (1, d),
            (2, n, d),
        ]
    )


def _leaf(rng, name, shape, kinds, dtype=None):
    spec = {
        "name": name,
        "kind": rng.choice(kinds),
        "seed": rng.randrange(1000),
        "shape": list(shape),
    }
    if dtype and spec["kind"] not in source.KINDS:
        spec["dtype"] = dtype
    return spec


FLOATS = ["normal"] * 6 + ["positive", "sparse", "ties", "ties", "zeros"]
PARAMS = ["normal"] * 8 + ["positive", "sparse", "ties", "zeros"]


def _aval(spec):
    kind = spec["kind"]
    if kind == "keys":
        return jax.ShapeDtypeStruct(
            tuple(spec["shape"]), jax.eval_shape(lambda: jax.random.key(0)).dtype
        )
    dtype = {"booleans": jnp.bool_, "integers": jnp.int64, "outside": jnp.int64}.get(
        kind
    ) or jnp.dtype(spec.get("dtype", "float64"))
    return jax.ShapeDtypeStruct(tuple(spec["shape"]), dtype)


def program(seed, number):
    """Program `number` of `seed`. Shapes are traced in f64 whatever the process's mode is."""
    with jax.enable_x64(True):
        return _program(random.Random(f"{seed} {number}"), seed, number)


def _program(rng, seed, number):
    dims = [rng.randint(1, 4) for _ in range(3)]
    single = rng.random() < 0.05
    dtype = "float32" if single else None
    shape = lambda: _shape(rng, dims)
    params = [
        _leaf(rng, f"p{i}", shape(), PARAMS, dtype)
        for i in range(rng.choice([1, 1, 1, 1, 1, 2, 3]))
    ]
    meta = [_leaf(rng, f"m{i}", shape(), FLOATS, dtype) for i in range(rng.choice([1, 1, 1, 2]))]
    if rng.random() < 0.15:
        meta[0] |= {"shape": [], "python": True}
    batch = [
        _leaf(rng, f"b{i}", shape(), FLOATS, dtype) for i in range(rng.choice([1, 1, 1, 1, 1, 2]))
    ]
    for group, letter, chance in ((batch, "b", 0.5), (meta, "m", 0.1)):
        if rng.random() < chance:
            group.append(
                _leaf(
                    rng,
                    f"{letter}{len(group)}",
                    (dims[0],),
                    ["integers", "integers", "outside", "booleans"],
                )
            )
    if rng.random() < 0.08:
        batch.append(_leaf(rng, f"b{len(batch)}", (), ["keys"]))
    steps = rng.choice([1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 4, 5, 6, 7, 9, 12])
    form = rng.choice(list(training.FORMS)) if rng.random() < 0.3 else rng.choice(training.USUAL)
    extras = rng.sample(list(training.EXTRAS), rng.choice([0, 0, 0, 1, 2, 3]))
    rate = rng.choice([None] * 4 + ["scalar", "schedule"])
    if rate:
        meta.append(
            {
                "name": "rate",
                "kind": "normal",
                "seed": rng.randrange(1000),
                "shape": [steps] if rate == "schedule" else [],
            }
        )
        extras += ["count"] if rate == "schedule" and "count" not in extras else []
    pick = rng.random()
    optimiser = (
        []
        if pick < 0.6
        else [rng.choice(training.WHOLE)]
        if pick < 0.78
        else [
            *(rng.choice(training.CHAIN) for _ in range(rng.choice([1, 1, 1, 2, 3]))),
            "optax.scale(-0.05)",
        ]
    )
    key = rng.random() < 0.08
    # Most programs are small: they compile in half a second, and find most.
    writer = Writer(
        rng, rng.choice([8, 8, 12, 12, 20, 20, 40, 90]) // (1 if form in training.USUAL else 2) + 4
    )
    inputs = {
        spec["name"]: _aval(spec) for spec in [*meta[: len(meta) - bool(rate)], *batch, *params]
    }
    if key:
        inputs = {"key": _aval({"kind": "keys", "shape": []})} | inputs
    outer_args = [_leaf(rng, f"o{i}", shape(), FLOATS) for i in range(rng.choice([0, 0, 1]))]
    loss = writer.graph(inputs, rng.choice([1, 1, 1, 1, 2, 2, 2, 3, 4, 6]))
    outer = writer.graph(
        {spec["name"]: _aval(spec) for spec in [*outer_args, *params]},
        rng.choice([0, 0, 0, 0, 1, 2]),
    )
    around = surroundings.choose(rng)
    if around["called"] and rng.random() < 0.5:
        form = rng.choice(["jitted", "jitted loss"])
    for graph in (loss, outer):
        surroundings.call_functions(rng, graph, 0.7 if around["called"] else 0.02)
    names = (
        ["meta", "state", "batches"]
        if any(spec["kind"] not in source.KINDS for spec in batch)
        else ["meta", "state"]
    )
    wrt = rng.sample(names, rng.randint(1, len(names)))
    schedule = rng.choice(training.SCHEDULES)
    for name, value in {
        "keep": rng.random() < 0.7,
        "n": rng.randint(2, 5),
        "slots": rng.randint(1, 5),
        "rebuild": rng.randint(1, 3),
    }.items():
        schedule = schedule.replace(f"{{{name}}}", str(value))
    return {
        "seed": [seed, number],
        "params": params,
        "meta": meta,
        "batch": batch,
        "outer_args": outer_args,
        "trees": {
            group: rng.choice(source.TREES) for group in ("params", "meta", "batch", "state")
        },
        "loss": loss,
        "outer": outer,
        "form": form,
        "grad": rng.choice(["metagrad"] * 6 + ["jax"]),
        "inner_grad": rng.choice(["jax.grad", "metagrad.grad"]),
        "optimiser": optimiser,
        "update": rng.choice(["added"] * 8 + list(training.UPDATES)),
        "rate": rate,
        "extras": extras,
        "key": key,
        "step_aux": rng.choice(
            [None] * 10
            + [
                "{'norm': sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(g))}",
                "(jax.tree.leaves(params)[0], None)",
            ]
        ),
        "outer_aux": rng.random() < 0.1,
        "outer_of": rng.choice(["params", "ema"]) if "ema" in extras else "params",
        "wrt": wrt,
        "single": len(wrt) == 1 and rng.random() < 0.7,
        "schedule": schedule,
        "steps": steps,
        **around,
    }
