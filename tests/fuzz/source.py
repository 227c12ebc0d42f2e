"""A program as Python source: what runs is what is printed."""

from .arrays import OPERATIONS
from .control import STRUCTURED, SUPPORT
from .training import EXTRAS, FORMS, OVER_EXAMPLES, USES

HEADER = """\
import collections
import jax, jax.numpy as jnp, numpy as np, optax, metagrad
jax.config.update("jax_enable_x64", True)
normal = lambda seed, *shape: 0.7 * np.random.default_rng(seed).normal(size=shape)
positive = lambda seed, *shape: np.random.default_rng(seed).uniform(0.3, 1.3, size=shape)
kept = lambda seed, *shape: np.random.default_rng(seed).integers(0, 2, size=shape)
sparse = lambda seed, *shape: normal(seed, *shape) * kept(seed, *shape)
ties = lambda seed, *shape: np.random.default_rng(seed).integers(-2, 3, size=shape) / 2
zeros = lambda seed, *shape: np.zeros(shape)
integers = lambda seed, *shape: np.random.default_rng(seed).integers(0, 3, size=shape)
outside = lambda seed, *shape: np.random.default_rng(seed).integers(-3, 6, size=shape)
booleans = lambda seed, *shape: np.random.default_rng(seed).random(shape) < 0.6
total = lambda v: jnp.mean(v * np.cos(1.0 + np.arange(v.size)).reshape(v.shape).astype(v.dtype))
key_of = jax.random.key
keys = lambda seed, *shape: jax.random.split(key_of(seed), shape) if shape else key_of(seed)
"""

KINDS = {"integers": "i", "outside": "i", "booleans": "b", "keys": "k"}
"""Kind of operand, by how a leaf is made; the others are "f"."""


def leaf(spec, leading=()):
    """The expression that makes a leaf; `leading` axes come before its own."""
    numbers = ", ".join(map(str, [spec["seed"], *leading, *spec["shape"]]))
    array = f"{spec['kind']}({numbers})"
    if spec["kind"] == "keys":
        return array
    if spec.get("python"):
        return f"float({array})"
    dtype = spec.get("dtype")
    return f"jnp.asarray({array}, jnp.{dtype})" if dtype else f"jnp.asarray({array})"


# --- Pytrees

TREES = ("dict", "tuple", "list", "named", "nested", "with None")


def pack(tree, names, label):
    """The expression for a tree of these names, and the statement that takes it apart."""
    listed = ", ".join(names)
    if not names:
        return "()", "pass"
    if tree == "bare" and len(names) == 1:
        return names[0], f"{names[0]} = {label}"
    if tree == "dict":
        return "{" + ", ".join(f'"{n}": {n}' for n in names) + "}", f"{listed} = " + ", ".join(
            f'{label}["{n}"]' for n in names
        )
    if tree == "list":
        return f"[{listed}]", f"[{listed}] = {label}"
    if tree == "named":
        kind = f'collections.namedtuple("{label.title()}", "{" ".join(names)}")'
        return (
            f"{label.title()}({listed})",
            f"({listed},) = {label}",
            f"{label.title()} = {kind}",
        )
    if tree == "nested":
        others = ", ".join(names[1:])
        return (
            f'{{"first": {names[0]}, "others": (None, [{others}])}}',
            f'{names[0]}, (_, [{others}]) = {label}["first"], {label}["others"]',
        )
    if tree == "with None":
        return f"(None, {listed})", f"(_, {listed}) = {label}"
    return f"({listed},)", f"({listed},) = {label}"


def _names(program, group):
    return [spec["name"] for spec in program[group]]


# --- Graphs


def expression(node):
    op = OPERATIONS.get(node["op"]) or STRUCTURED[node["op"]]
    text = op.template
    for i, name in enumerate(node["args"]):
        text = text.replace(f"{{{i}}}", name)
    for key, value in node["attrs"].items():
        text = text.replace(f"{{{key}}}", str(value))
    for key, body in zip("fg", node["bodies"]):
        text = text.replace(f"{{{key}}}", body["name"])
    return text


def statements(nodes):
    """The lines of some nodes; functions are defined before the node that uses them."""
    lines = []
    for node in nodes:
        for body in node["bodies"]:
            lines += function(body)
        lines.append(f"{node['name']} = {expression(node)}")
    return lines


def function(body):
    return [
        f"def {body['name']}({', '.join(body['inputs'])}):",
        *indented(statements(body["nodes"])),
        f"    return {body['out'][0]}",
    ]


def indented(lines):
    return ["    " + line for line in lines]


def support(text):
    return [definition.strip("\n") for name, definition in SUPPORT.items() if name in text]


def operations(graph):
    """The names of all operations of a graph, those of functions in it as well."""
    for node in graph["nodes"]:
        yield node["op"]
        for body in node["bodies"]:
            yield from operations(body)


# --- The program


def optimiser(program):
    parts = program["optimiser"]
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else f"optax.chain({', '.join(parts)})"


def state_names(program):
    return [
        "params",
        *(["opt"] if optimiser(program) else []),
        *program["extras"],
        *(["key"] if program["key"] else []),
    ]


def _loss(program, trees):
    arguments = ", ".join(["params", "meta", "batch", *(["key"] if program["key"] else [])])
    unpacks = [trees[group][1] for group in ("params", "meta", "batch")]
    outs = program["loss"]["out"]
    total = " + ".join(f"total({out})" for out in outs)
    lines = [
        f"def loss({arguments}):",
        *indented(unpacks),
        *indented(statements(program["loss"]["nodes"])),
    ]
    if "loss_and_aux" not in FORMS[program["form"]]:
        return [*lines, f"    return {total}"]
    lines[0] = f"def loss_and_aux({arguments}):"
    return [
        *lines,
        f"    return {total}, jnp.mean({outs[0]} ** 2)",
        "",
        f"def loss({arguments}):",
        f"    return loss_and_aux({arguments})[0]",
    ]


def _step(program, trees):
    key = ["key_now"] if program["key"] else []
    rest, rest_b = (", ".join(["meta", batch, *key]) for batch in ("batch", "b"))
    form = FORMS[program["form"]]
    for name, text in {
        "grad": f"{program['grad']}.grad",
        "value_and_grad": f"{program['grad']}.value_and_grad",
        "inner_grad": program["inner_grad"],
        "rest": rest,
        "rest_b": rest_b,
    }.items():
        form = form.replace(f"{{{name}}}", text)
    lines = [trees["state"][1]]
    if program["key"]:
        lines.append("key, key_now = jax.random.split(key)")
    lines += form.split("\n")
    lines += [USES[name] for name in program["extras"] if name in USES]
    if any(spec.get("dtype") for spec in program["params"]):
        lines.append("g = jax.tree.map(lambda g, p: g.astype(p.dtype), g, params)")
    if optimiser(program):
        lines.append("updates, opt = optimiser.update(g, opt, params)")
    else:
        lines.append("updates = jax.tree.map(lambda g: -0.1 * g, g)")
    if program["rate"]:
        rate = "rate[count]" if program["rate"] == "schedule" else "rate"
        lines += [
            trees["meta"][1],
            f"updates = jax.tree.map(lambda u: u * jnp.exp(0.5 * {rate}), updates)",
        ]
    lines.append("params = jax.tree.map(lambda p, u: p + u.astype(p.dtype), params, updates)")
    lines += [f"{name} = {EXTRAS[name][1]}" for name in program["extras"]]
    state = trees["state"][0]
    lines.append(
        f"return {state}, {program['step_aux']}" if program["step_aux"] else f"return {state}"
    )
    options = "(has_aux=True)" if program["step_aux"] else ""
    return [f"@metagrad.compile{options}", "def step(state, meta, batch):", *indented(lines)]


def _outer(program, trees):
    names = _names(program, "outer_args")
    of = program["outer_of"]
    lines = (
        [trees["state"][1]] + ([f"params = {of}"] if of != "params" else []) + [trees["params"][1]]
    )
    lines += statements(program["outer"]["nodes"])
    total = " + ".join(f"total({out})" for out in program["outer"]["out"])
    lines.append(
        f"return {total}, {program['outer']['out'][0]}"
        if program["outer_aux"]
        else f"return {total}"
    )
    return [f"def outer({', '.join(['state', *names])}):", *indented(lines)]


def render(program):
    """The source.

    It defines step, outer, state, meta, batches, outer_args, and the options of `metagradient`.
    """
    trees, declared = {}, []
    groups = {group: _names(program, group) for group in ("params", "meta", "batch")} | {
        "state": state_names(program)
    }
    for group, names in groups.items():
        trees[group] = pack(program["trees"][group], names, group)
        declared += trees[group][2:]
    leading = (program["steps"], 2) if program["form"] in OVER_EXAMPLES else (program["steps"],)
    data = []
    for group, label, axes in (
        ("params", "params", ()),
        ("meta", "meta", ()),
        ("batch", "batches", leading),
    ):
        data += [f"{spec['name']} = {leaf(spec, axes)}" for spec in program[group]]
        data.append(f"{label} = {trees[group][0]}")
    if optimiser(program):
        data += [f"optimiser = {optimiser(program)}", "opt = optimiser.init(params)"]
    data += [f"{name} = {EXTRAS[name][0]}" for name in program["extras"]]
    if program["key"]:
        data.append("key = jax.random.key(0)")
    data += [f"state = {trees['state'][0]}"]
    data += [f"outer_args = ({''.join(leaf(spec) + ', ' for spec in program['outer_args'])})"]
    wrt = repr(program["wrt"][0]) if program["single"] else repr(tuple(program["wrt"]))
    aux = ", has_aux=True" if program["outer_aux"] else ""
    data.append(f"mg = step.metagradient(outer, {wrt}, schedule={program['schedule']}{aux})")
    parts = [declared, _loss(program, trees), _step(program, trees), _outer(program, trees), data]
    body = "\n\n".join("\n".join(part) for part in parts if part)
    return "\n".join([HEADER, *support(body), body, ""])
