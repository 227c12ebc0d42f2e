"""The page of one version of JAX, from the table, the cases and what was measured of them."""

import inspect
import textwrap

import jax
import measurements
from declined import DECLINED
from measure import FORWARD, REVERSE, REVERSE_AGAIN, VERDICTS

from metagrad.frontend.capabilities import (
    CAPABILITIES,
    CUSTOM_RULE,
    TRUE_RULES,
    WITHOUT_DERIVATIVE,
    unproven,
)

MODES = (REVERSE, FORWARD, REVERSE_AGAIN)

HEAD = """# What Enzyme differentiates as JAX does

`python -m tests.capabilities` writes this page from the table
([frontend/capabilities/table.py](../frontend/capabilities/table.py)), the {cases} cases of
[tests/capabilities/cases](../tests/capabilities/cases/__init__.py) and their comparison with JAX.
It holds for {versions};
{others}.
All cases are measured in float64; those in which numbers can overflow are measured in float32 too.
A case covers the places where derivative rules may disagree: zeros, ties, repeated indices, indices
out of bounds, empty axes, masks of -inf, infinite and undefined operands and cotangents.

- **reverse**, **forward over reverse**: the two modes that the compiler uses.
  **reverse over reverse** is measured for comparison; the compiler leaves it to JAX.
- *exact*: JAX's numbers, up to rounding, and not finite where JAX's are not.
  *NaN at infinity*: exact, but where an operand is infinite Enzyme may have a NaN where JAX has a
  number.
- *differs*, *fails*: in at least one case Enzyme has other numbers, or none. The compiler does not
  use it.
- A dash: not measured, because JAX has no such derivative.
- **lowered as**: what replaces JAX's lowering. *JAX's rule*: the value, and beside it JAX's own
  rule, which Enzyme transposes and differentiates
  ([jaxs_rules.py](../frontend/exact_lowerings/jaxs_rules.py)). *value*: a constant of
  differentiation, because JAX lets no derivative through.

An operation that is in none of these tables is not known to be exact: JAX differentiates the
function that contains it.
"""

DECLINED_HEAD = """## What JAX does

`lowered.explain()` gives these reasons, with the user's line.

| function | reason |
|---|---|
"""


def worst(measured, names, mode) -> str:
    seen = [
        of_dtype[mode] for name in names for of_dtype in measured[name].values() if mode in of_dtype
    ]
    return max(seen, key=VERDICTS.index) if seen else "-"


def lowered_as(primitive) -> str:
    capability = CAPABILITIES.get(primitive)
    if capability is None or not (capability.lowering or capability.by_rule):
        return "itself"
    if primitive in WITHOUT_DERIVATIVE:
        return "value"
    if capability.by_rule:
        return (
            "JAX's rule"
            if capability.by_rule is True
            else f"JAX's rule if {capability.by_rule.__name__.replace('_', ' ')}, else "
            f"{itself_or_module(capability)}"
        )
    return itself_or_module(capability)


def itself_or_module(capability) -> str:
    if not capability.lowering:
        return "itself"
    module = inspect.getmodule(capability.lowering).__name__.rpartition(".")[2]
    return "itself" if module == "table" else f"[{module}](../frontend/exact_lowerings/{module}.py)"


def conditions(primitive) -> str:
    capability = CAPABILITIES[primitive]
    remarks = [capability.note] if capability.note else []
    if capability.constant and not capability.when:
        remarks.append(
            f"not in operand {' or '.join(str(i) for i in capability.constant)}, where JAX has none"
        )
    return "; ".join(remarks)


def rows(measured, entries) -> str:
    """Entries (name, lowered as, its cases, remark); those that agree in all share a row."""
    groups: dict = {}
    for name, lowering, cases, remark in entries:
        groups.setdefault(
            (lowering, *(worst(measured, cases, m) for m in MODES), remark), []
        ).append(f"`{name}`")
    head = f"| | lowered as | {' | '.join(MODES)} | |\n|---|---|---|---|---|---|\n"
    return head + "".join(
        f"| {', '.join(sorted(names))} | {lowering} | {' | '.join(verdicts)} | {remark} |\n"
        for (lowering, *verdicts, remark), names in sorted(
            groups.items(), key=lambda g: (g[0], g[1])
        )
    )


def page(version, cases) -> str:
    measured = measurements.of(version)
    by_name = {p.name: p for p in CAPABILITIES}
    proving: dict[str, list[str]] = {}
    for name, case in cases.items():
        for proven in case.proves:
            proving.setdefault(proven, []).append(name)
    primitives = [
        (n, lowered_as(p), proving[n], conditions(p)) for n, p in by_name.items() if n in proving
    ]
    calls = [
        (n, "itself", proving[n], "")
        for n in ("stop_gradient", "jit", "remat", "cond", "scan", "while")
        if n in proving
    ]
    functions = [
        (name, "its primitives", [name], "")
        for kind in ("activations", "special", "models")
        for name in proving[kind]
    ]
    rules = ", ".join(
        sorted(
            f"`{f.fun.__name__}`" + (" (by hand)" if lowering else "")
            for f, lowering in TRUE_RULES.items()
        )
    )
    refused = "".join(f"| {name} | {reason(*entry)} |\n" for name, entry in DECLINED.items())
    versions = f"jax {version} and enzyme-ad {measurements.enzyme()}"
    others = ", ".join(
        f"[{measurements.page(other).name}]({measurements.page(other).name}) for jax {other}"
        for other in measurements.versions()
        if other != version
    )
    return "\n".join(
        [
            HEAD.format(cases=len(cases), versions=versions, others=others),
            "## Primitives\n",
            rows(measured, primitives),
            "## Control flow and calls\n",
            rows(measured, calls),
            "## Functions and parts of models\n",
            rows(measured, functions),
            textwrap.fill(
                f"Custom rules of JAX's own that are known to be true derivatives: {rules}.", 100
            ),
            "",
            DECLINED_HEAD + refused,
        ]
    )


def reason(function, *inputs) -> str:
    """What `unproven` says of a function, in reverse mode or else in forward mode."""
    jaxpr = jax.make_jaxpr(function)(*inputs)
    equations = unproven(jaxpr, "reverse") or unproven(jaxpr, "forward")
    reasons = dict.fromkeys(
        u.why if u.why == CUSTOM_RULE else f"{u.primitive}: {u.why}" for u in equations
    )
    return "; ".join(reasons).replace("|", "\\|")
