"""What is around a program: names of functions, closures, reads of captured arrays, a second call
under other settings or with leaves of other types, a derivative around the value.
"""

from .captured import READS

NAMES = [
    "step_vjp",
    "inner",
    "update",
    "user_update",
    "loss_0",
    "loss_0_vjp_0",
    "loss_vjp",
    "outer_vjp",
    "inputs_0",
    "inputs",
    "main",
    "prints",
    "counters",
    "advance",
    "metagrad_loss",
    "metagrad_step",
    "metagrad.grad",
    "grad",
    "jit",
    "f",
    "fixed",
    "wrapped",
    "None",
    "_",
    "a b",
    "größe",
    "tan(x)",
    "stablehlo.add",
    "sdy",
    "closed_call",
    "<lambda>",
    "xla.sin",
    "private",
    "0",
]
"""Names that functions of the user take: ours, those of MLIR and XLA, and odd ones."""

SETTINGS = [
    ("jax_threefry_partitionable", False),
    ("jax_threefry_partitionable", False),
    ("jax_default_matmul_precision", "highest"),
    ("jax_default_matmul_precision", "float32"),
    ("jax_default_matmul_precision", "bfloat16"),
    ("jax_default_prng_impl", "rbg"),
    ("jax_default_prng_impl", "unsafe_rbg"),
    ("jax_random_seed_offset", 7),
    ("jax_numpy_rank_promotion", "raise"),
    ("jax_numpy_dtype_promotion", "strict"),
    ("jax_enable_custom_prng", True),
    ("jax_debug_nans", False),
]

LEAVES = {
    "as_python": "as_python = lambda x: x.item() if plain(x) and x.ndim == 0 else x",
    "as_numpy": "as_numpy = lambda x: np.asarray(x)[()] if plain(x) else x",
    "as_array": "as_array = lambda x: jnp.asarray(np.asarray(x)) if plain(x) else x",
    "as_weak": "as_weak = lambda x: jnp.asarray(x.item()) if plain(x) and x.ndim == 0 else x",
    "as_scalars": ("as_scalars = lambda x: np.asarray(x)[()] if plain(x) and x.ndim == 0 else x"),
    "plain(": (
        "plain = lambda x: hasattr(x, 'ndim') and not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)"
    ),
}
"""Functions of a leaf: the same number as a leaf of another type."""

WITH_NAME = """
def with_name(name):
    def named(f):
        f.__name__ = f.__qualname__ = name
        return f
    return named
"""

PLACES = ("step", "loss", "outer")


def choose(rng):
    """The fields of a program that are about what is around it."""
    closure = rng.random() < 0.12
    reads = [
        [place, rng.choice(READS)] for place in PLACES if rng.random() < (0.1 if closure else 0.06)
    ]
    if closure:
        reads += [[place, READS[0]] for place in rng.sample(PLACES, rng.choice([1, 1, 2]))]
    named = rng.random() < 0.15
    again = None
    if rng.random() < 0.12:
        settings = dict(rng.sample(SETTINGS, 1)) if rng.random() < 0.7 else {}
        leaves = [name for name in LEAVES if name != "plain("]
        again = {
            "settings": settings,
            "leaves": rng.choice(leaves) if not settings or rng.random() < 0.4 else None,
            "back": rng.random() < 0.2,
        }
    return {
        "closure": closure,
        "reads": reads,
        "called": {place: rng.choice(NAMES) for place in PLACES} if named else {},
        "again": again,
        "around": rng.random() < 0.08,
    }


def features(program):
    """What the summary of a run counts."""
    again = program["again"] or {"settings": {}, "leaves": None}
    called = any("called" in text for text in map(str, (program["loss"], program["outer"])))
    return [
        *(["closure"] if program["closure"] else []),
        *(f"read in the {place}" for place, _ in program["reads"]),
        *(["names"] if program["called"] or called else []),
        *(f"{name}={value}" for name, value in again["settings"].items()),
        *([again["leaves"]] if again["leaves"] else []),
        *(["derivative of the value"] if program["around"] else []),
        f"update: {program['update']}",
        *(f"state: {name}" for name in program["extras"]),
    ]


def call_functions(rng, graph, chance):
    """Gives some of the functions in a graph names of NAMES, in place."""
    for node in graph["nodes"]:
        for body in node["bodies"]:
            if rng.random() < chance:
                body["called"] = rng.choice(NAMES)
            call_functions(rng, body, chance)


def scaled(program, place):
    """The factor by which what captured arrays hold scales a place, or None."""
    factors = [f"(1.0 + 0.1 * {read})" for where, read in program["reads"] if where == place]
    return " * ".join(factors) or None


def decorated(program, place):
    return [f"@with_name({program['called'][place]!r})"] if place in program["called"] else []


def simpler(program):
    """Values of the fields of `choose` that are simpler."""
    for field, simple in {"closure": False, "called": {}, "again": None, "around": False}.items():
        if program[field] != simple:
            yield {field: simple}
    for i in range(len(program["reads"])):
        yield {"reads": program["reads"][:i] + program["reads"][i + 1 :]}
    for place in program["called"]:
        yield {"called": {k: v for k, v in program["called"].items() if k != place}}
    if program["again"]:
        for field, simple in {"settings": {}, "leaves": None, "back": False}.items():
            if program["again"][field] != simple:
                yield {"again": program["again"] | {field: simple}}


def around(program):
    """A function of what `wrt` names around the metagradient's value: JAX differentiates it."""
    value = "value[0]" if program["outer_aux"] else "value"
    arguments = ", ".join(f"wanted.get('{name}', {name})" for name in ("state", "meta", "batches"))
    return (
        "value_of = lambda wanted, state, meta, batches, outer_args: "
        f"jnp.sin(mg({arguments}, *outer_args).{value})"
    )


def calls(program):
    """The calls of a program as source: settings, and a function of the arguments' leaves."""
    again, first = program["again"], "({}, None)"
    if not again:
        return f"calls = [{first}]"
    second = f"({again['settings']!r}, {again['leaves']})"
    return f"calls = [{', '.join([first, second, *([first] if again['back'] else [])])}]"
