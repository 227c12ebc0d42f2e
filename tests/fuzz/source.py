"""A program as Python source: what runs is what is printed."""

from . import arrays, captured, control, libraries, low_precision, surroundings
from .control import STRUCTURED
from .training import EXTRAS, FORMS, OVER_EXAMPLES, UPDATES, USES

OPERATIONS = arrays.OPERATIONS | {
    op.name: op for op in [*captured.CAPTURED, *libraries.LAYERS, *low_precision.PRODUCTS]
}

SUPPORT = {
    "with_name(": surroundings.WITH_NAME,
    **captured.TABLES,
    **libraries.SUPPORT,
    **surroundings.LEAVES,
    **control.SUPPORT,
}
"""What a program defines if it names it."""

IMPORTS = """\
import collections
import jax, jax.numpy as jnp, numpy as np, optax, metagrad
"""
DATA = """\
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

HEADER = f'{IMPORTS}jax.config.update("jax_enable_x64", True)\n{DATA}'

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
        *([f"@with_name({body['called']!r})"] if body.get("called") else []),
        f"def {body['name']}({', '.join(body['inputs'])}):",
        *indented(statements(body["nodes"])),
        f"    return {body['out'][0]}",
    ]


def indented(lines):
    return ["    " + line for line in lines]


def support(text):
    """The definitions that a text needs, and those that they need."""
    wanted, before = {}, -1
    while len(wanted) > before:
        before = len(wanted)
        known = "\n".join([text, *wanted.values()])
        wanted = {name: body for name, body in SUPPORT.items() if name in known}
    return [body.strip("\n") for body in wanted.values()]


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
    if factor := surroundings.scaled(program, "loss"):
        total = f"({total}) * {factor}"
    name = surroundings.decorated(program, "loss")
    lines = [
        f"def loss({arguments}):",
        *indented(unpacks),
        *indented(statements(program["loss"]["nodes"])),
    ]
    if "loss_and_aux" not in FORMS[program["form"]]:
        return [*name, *lines, f"    return {total}"]
    lines[0] = f"def loss_and_aux({arguments}):"
    return [
        *lines,
        f"    return {total}, jnp.mean({outs[0]} ** 2)",
        "",
        *name,
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
    for name in program["extras"]:
        lines += USES[name].split("\n") if name in USES else []
    if factor := surroundings.scaled(program, "step"):
        lines.append(f"g = jax.tree.map(lambda g: g * {factor}, g)")
    if any(spec.get("dtype") for spec in program["params"]) or program["reads"]:
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
    lines += UPDATES[program["update"]].split("\n")
    lines += [f"{name} = {EXTRAS[name][1]}" for name in program["extras"]]
    state = trees["state"][0]
    lines.append(
        f"return {state}, {program['step_aux']}" if program["step_aux"] else f"return {state}"
    )
    options = "(has_aux=True)" if program["step_aux"] else ""
    return [
        f"@metagrad.compile{options}",
        *surroundings.decorated(program, "step"),
        "def step(state, meta, batch):",
        *indented(lines),
    ]


def _outer(program, trees):
    names = _names(program, "outer_args")
    of = program["outer_of"]
    lines = (
        [trees["state"][1]] + ([f"params = {of}"] if of != "params" else []) + [trees["params"][1]]
    )
    lines += statements(program["outer"]["nodes"])
    total = " + ".join(f"total({out})" for out in program["outer"]["out"])
    if factor := surroundings.scaled(program, "outer"):
        total = f"({total}) * {factor}"
    lines.append(
        f"return {total}, {program['outer']['out'][0]}"
        if program["outer_aux"]
        else f"return {total}"
    )
    head = f"def outer({', '.join(['state', *names])}):"
    return [*surroundings.decorated(program, "outer"), head, *indented(lines)]


def render(program):
    """The source.

    It defines step, outer, mg, state, meta, batches, outer_args, and calls: pairs of JAX's settings
    and a function of the arguments' leaves, or None. With "closure", step, outer and mg are made
    for a value that is traced: mg is then under `jax.jit`.
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
    made = f"step.metagradient(outer, {wrt}, schedule={program['schedule']}{aux})"
    functions = [_loss(program, trees), _step(program, trees), _outer(program, trees)]
    calls = [surroundings.calls(program)]
    if program["closure"]:
        inside = [line for part in functions for line in ["", *part]]
        around = ["def around(closed):", *indented([*inside, f"return step, outer, {made}"])]
        use = [
            "step, outer, _ = around(closed)",
            "under_jit = jax.jit(lambda closed, arguments: around(closed)[2](*arguments))",
            "mg = lambda *arguments: under_jit(closed, arguments)",
        ]
        parts = [declared, data, around, [*use, *calls]]
    else:
        parts = [declared, *functions, data, [f"mg = {made}", *calls]]
    body = "\n\n".join("\n".join(part) for part in parts if part)
    if program["around"]:
        body += "\n" + surroundings.around(program)
    return "\n".join([HEADER, *support(body), body, ""])
