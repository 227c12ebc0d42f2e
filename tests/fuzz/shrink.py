"""Makes a failing program small: tries ever smaller programs, and goes on from each that fails in
the same way.

The candidates need not be well-typed: one that JAX refuses is "invalid" and not taken. So this file
knows nothing of shapes.
"""

import copy
import time

from . import source, surroundings
from .training import FORMS


def shrink(program, fails, seconds=300.0):
    """The smallest program found, and how many were tried.

    Args:
      program: a program for which `fails(program)` holds.
      fails: whether a program shows the same failure.
      seconds: when to stop.
    """
    end, tried, seen = time.monotonic() + seconds, 0, set()
    progress = True
    while progress:
        progress = False
        for candidate in candidates(program):
            cleaned(candidate)
            key = source.render(candidate)
            if key in seen or len(key) > len(source.render(program)) + 40:
                continue
            seen.add(key)
            if time.monotonic() > end:
                return program, tried
            tried += 1
            if fails(candidate):
                program, progress = candidate, True
                break
    return program, tried


def candidates(program):
    """Smaller programs, the largest steps first."""

    def changed(**fields):
        return copy.deepcopy(program) | fields

    if program["steps"] > 1:
        yield from (
            changed(steps=n) for n in sorted({1, 2, program["steps"] // 2}) if n < program["steps"]
        )
    if program["optimiser"]:
        yield changed(optimiser=[])
    if program["form"] != "plain":
        yield changed(form="plain")
    if program["schedule"] != "None":
        yield changed(schedule="metagrad.StoreAll(False)")
        yield changed(schedule="None")
    for field, simple in {
        "extras": [],
        "key": False,
        "rate": None,
        "step_aux": None,
        "outer_aux": False,
        "outer_of": "params",
        "grad": "metagrad",
        "inner_grad": "jax.grad",
        "update": "added",
    }.items():
        if program[field] != simple:
            yield changed(**{field: simple})
    yield from (changed(**fields) for fields in surroundings.simpler(program))
    if len(program["wrt"]) > 1:
        yield from (changed(wrt=[name], single=True) for name in program["wrt"])
    for group in ("outer", "loss"):
        for graph in smaller(program[group]):
            yield changed(**{group: graph})
    for field in ("optimiser", "extras"):
        for i in range(len(program[field])):
            yield changed(**{field: program[field][:i] + program[field][i + 1 :]})
    for group, tree in program["trees"].items():
        simple = (
            "bare"
            if len(source.state_names(program) if group == "state" else program[group]) == 1
            else "tuple"
        )
        if tree != simple:
            yield changed(trees=program["trees"] | {group: simple})
    if len(program["wrt"]) == 1 and not program["single"]:
        yield changed(single=True)
    for group in ("params", "meta", "batch", "outer_args"):
        for i, leaf in enumerate(program[group]):
            for simple in (
                {"kind": "normal"},
                {"dtype": None},
                {"python": False},
                {"shape": []},
                {"shape": leaf["shape"][1:]},
                {"shape": leaf["shape"][:-1]},
            ):
                if any(leaf.get(k) not in (v, None) for k, v in simple.items()) and (
                    leaf["kind"] not in source.KINDS or "shape" in simple
                ):
                    yield changed(
                        **{group: [*program[group][:i], leaf | simple, *program[group][i + 1 :]]}
                    )
    sizes = sorted(
        {
            d
            for group in ("params", "meta", "batch", "outer_args")
            for leaf in program[group]
            for d in leaf["shape"]
        },
        reverse=True,
    )
    for size in sizes:
        for less in range(1, size):
            yield changed(
                **{
                    group: [_resized(leaf, size, less) for leaf in program[group]]
                    for group in ("params", "meta", "batch", "outer_args")
                }
            )


def _resized(leaf, size, less):
    return leaf | {"shape": [less if d == size else d for d in leaf["shape"]]}


def smaller(graph):
    """Graphs with one output, node or inner function less."""
    nodes, out = graph["nodes"], graph["out"]
    if len(out) > 1:
        yield from ({**copy.deepcopy(graph), "out": [name]} for name in out)
    names = [node["name"] for node in nodes]
    if len(out) == 1 and out[0] in names:
        # Cut the end off: the value of an earlier node.
        yield from (
            {**copy.deepcopy(graph), "out": [name]} for name in names[: names.index(out[0])]
        )
    for i, node in reversed(list(enumerate(nodes))):
        for argument in dict.fromkeys(node["args"]):
            shorter = copy.deepcopy(graph)
            del shorter["nodes"][i]
            yield replaced(shorter, node["name"], argument)
        for j, body in enumerate(node["bodies"]):
            if body.get("called"):
                plain = copy.deepcopy(graph)
                del plain["nodes"][i]["bodies"][j]["called"]
                yield plain
            for smaller_body in smaller(body):
                shorter = copy.deepcopy(graph)
                shorter["nodes"][i]["bodies"][j] = smaller_body
                yield shorter
            unwrapped = copy.deepcopy(graph)
            inner = unwrapped["nodes"][i]["bodies"][j]
            if len(inner["inputs"]) <= len(node["args"]):
                # The function's own nodes in place of the loop or transformation around it.
                for name, argument in zip(inner["inputs"], node["args"]):
                    replaced(inner, name, argument)
                unwrapped["nodes"][i : i + 1] = inner["nodes"]
                yield replaced(unwrapped, node["name"], inner["out"][0])


def replaced(graph, old, new):
    """Every use of one name by another, in place."""
    graph["out"] = [new if name == old else name for name in graph["out"]]
    for node in graph["nodes"]:
        node["args"] = [new if name == old else name for name in node["args"]]
        for body in node["bodies"]:
            replaced(body, old, new)
    return graph


def cleaned(program):
    """Drops what nothing reads, in place: nodes, then leaves. A tree keeps one leaf."""
    for group in ("loss", "outer"):
        _live(program[group])
    if not program["rate"]:
        program["meta"] = [leaf for leaf in program["meta"] if leaf["name"] != "rate"]
    elif program["rate"] == "schedule":
        program["meta"] = [
            leaf | {"shape": [program["steps"]]} if leaf["name"] == "rate" else leaf
            for leaf in program["meta"]
        ]
    read = set(_reads(program["loss"])) | set(_reads(program["outer"])) | {"rate"}
    for group in ("params", "meta", "batch", "outer_args"):
        kept = [leaf for leaf in program[group] if leaf["name"] in read]
        least = 0 if group == "outer_args" else 1
        program[group] = kept if len(kept) >= least else program[group][:1]
    if "inner_grad" not in FORMS[program["form"]]:
        program["inner_grad"] = "jax.grad"


def _reads(graph):
    yield from graph["out"]
    for node in graph["nodes"]:
        yield from node["args"]
        for body in node["bodies"]:
            yield from _reads(body)


def _live(graph):
    wanted, kept = set(graph["out"]), []
    for node in reversed(graph["nodes"]):
        if node["name"] in wanted:
            kept.append(node)
            wanted |= set(node["args"])
            for body in node["bodies"]:
                _live(body)
                wanted |= set(_reads(body))
    graph["nodes"] = kept[::-1]
