"""The metagrad dialect: its op and marks, and the attributes in which a module says all that a pass
needs to know.

    "metagrad.grad"(%operands) {loss = @loss, wrt = [0]} : value, auxiliary results, gradients

Every name of the dialect stands in this file, with what builds it and what reads it. The dialect is
not registered with MLIR: its ops are read and built as unregistered ones, and `verify`
(compiler/passes/verify.py) checks them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from jaxlib.mlir import ir

PREFIX = "metagrad."

GRAD = "metagrad.grad"
"""The value, auxiliary results and gradients of a loss."""

STOP_GRADIENT = "metagrad.stop_gradient"
ONCE = "metagrad.once"
ANCHOR = "metagrad.anchor"
"""Custom calls that JAX's lowering leaves where it cannot say what is meant; pass `raise-gradients`
raises them.
"""

STOPPED = "metagrad.stopped"
ANCHORED = "metagrad.anchored"
"""Marks of values that are constants of differentiation at every order (stopped.py)."""

HIDDEN = "metagrad.hidden"
"""A custom call that hides an `enzyme` op from Enzyme's first run (compiler/passes/expand.py)."""

APART = "metagrad.apart"
"""A custom call that hides a function from Enzyme (compiler/passes/for_enzyme/apart.py)."""

WIDENED = "metagrad.widened"
"""An attribute of a conversion that is there for Enzyme alone
(compiler/passes/for_enzyme/narrow_products.py)."""

CAPTURED = "metagrad.captured"
"""A custom call that stands for an array from outside, and the attribute of a module that lists the
types of these arrays (captured.py)."""

ARGUMENTS = "metagrad.arguments"
WRT = "metagrad.wrt"
BETWEEN_STEPS = "metagrad.between_steps"
"""Attributes of a module: `Layout`, what the metagradient is taken with respect to, and the leaves
of the state whose cotangent goes from step to step.
"""

UNCHANGED = "metagrad.unchanged"
COUNTERS = "metagrad.counters"
"""Attributes of a module: the leaves of the state that every step returns as they came, and those
that @counters advances, which depend on the step's number alone. Both may be left out.
"""

VJP = "metagrad.vjp"
VALUE_AND_VJP = "metagrad.value_and_vjp"
RUN = "metagrad.run"
"""Attributes of a function that name another: its VJP as JAX made it; the same with the value (the
first result) before the cotangents; and the copy of it that is run and not differentiated.
"""

BY_JAX = "metagrad.by_jax"
BY_ENZYME = "metagrad.by_enzyme"
MARKS = BY_JAX, BY_ENZYME
"""Attributes of a function that say who made it: a derivative that JAX traced, or one that is
Enzyme's work throughout.
"""

_GROUPS = {"state": "state", "meta": "meta", "batches": "batch"}


@dataclasses.dataclass(frozen=True)
class Layout:
    """How many leaves each group of arguments has.

    Leaves are the flattened pytrees, in order; @step takes state, meta and batch in this order.
    """

    state: int
    meta: int
    batch: int
    outer: int

    @classmethod
    def of(cls, module: ir.Module) -> Layout:
        """Reads the module's attribute.

        Raises:
          ValueError: it is not there, or lacks a group; the message says what to write.
        """
        attributes = module.operation.attributes
        if ARGUMENTS not in attributes:
            raise ValueError(
                f"the module has no `{ARGUMENTS}` attribute; it needs one like "
                "{state = 2 : i64, meta = 1 : i64, batch = 1 : i64, outer = 0 : i64} to say which "
                "argument of @step is what"
            )
        groups = attributes[ARGUMENTS]
        missing = [field.name for field in dataclasses.fields(cls) if field.name not in groups]
        if missing:
            raise ValueError(
                f"the module's `{ARGUMENTS}` attribute does not say how many arguments are "
                f"`{missing[0]}`: {groups}"
            )
        return cls(
            **{field.name: int(groups[field.name].value) for field in dataclasses.fields(cls)}
        )

    def attach(self, module: ir.Module) -> None:
        """Writes the module's attribute."""
        with module.context:
            i64 = ir.IntegerType.get_signless(64)
            module.operation.attributes[ARGUMENTS] = ir.DictAttr.get(
                {
                    name: ir.IntegerAttr.get(i64, size)
                    for name, size in dataclasses.asdict(self).items()
                }
            )

    @property
    def step(self) -> int:
        """Arguments of @step."""
        return self.state + self.meta + self.batch

    def arguments(self, group: str) -> range:
        """The arguments of @step that a group has, by index.

        Groups are called as in `wrt`: "state", "meta", "batches".
        """
        first = {"state": 0, "meta": self.state, "batches": self.state + self.meta}[group]
        return range(first, first + getattr(self, _GROUPS[group]))

    def differentiated(self, wrt: Sequence[str]) -> list[int]:
        """The arguments of @step that belong to a group in `wrt`, by index."""
        return [i for group in _GROUPS if group in wrt for i in self.arguments(group)]


def wrt_of(module: ir.Module) -> tuple[str, ...]:
    """What the metagradient is taken with respect to: the module's attribute.

    Raises:
      ValueError: it is not there.
    """
    if WRT not in module.operation.attributes:
        raise ValueError(
            f'the module has no `{WRT}` attribute; it needs one like ["meta"], of "meta", "state" '
            'and "batches"'
        )
    return tuple(attr.value for attr in module.operation.attributes[WRT])


def between_steps_of(module: ir.Module) -> list[int]:
    """The leaves of the state whose cotangent goes from step to step, by index, ascending: the
    module's attribute.

    Raises:
      ValueError: it is not there.
    """
    if BETWEEN_STEPS not in module.operation.attributes:
        raise ValueError(
            f"the module has no `{BETWEEN_STEPS}` attribute; it needs one like [0, 2]: the leaves "
            "of the state, by index and ascending, that depend on "
            "what `metagrad.wrt` names and that the outer value depends on, in one step or several"
        )
    return read_indices(module.operation.attributes[BETWEEN_STEPS])


def leaves_of(module: ir.Module, attribute: str) -> list[int]:
    """The leaves of the state that `metagrad.unchanged` or `metagrad.counters` lists, by index,
    ascending; none if the module does not have the attribute.
    """
    attributes = module.operation.attributes
    return read_indices(attributes[attribute]) if attribute in attributes else []


def describe(
    module: ir.Module,
    layout: Layout,
    wrt: Sequence[str],
    *,
    between_steps: Iterable[int],
    unchanged: Iterable[int] = (),
    counters: Iterable[int] = (),
) -> None:
    """Writes the attributes of a module."""
    layout.attach(module)
    with module.context:
        attributes = module.operation.attributes
        attributes[WRT] = ir.ArrayAttr.get([ir.StringAttr.get(name) for name in wrt])
        attributes[BETWEEN_STEPS] = indices(between_steps)
        for name, leaves in ((UNCHANGED, indices(unchanged)), (COUNTERS, indices(counters))):
            if len(leaves):
                attributes[name] = leaves


def of_piece(piece: str, attribute: str) -> str:
    """The attribute of @step that becomes `attribute` of a piece, when pass `cut` has made it:
    `metagrad.update_vjp` for `metagrad.vjp` of @update.
    """
    return f"{PREFIX}{piece}_{attribute.removeprefix(PREFIX)}"


def strip(op: ir.Operation | ir.OpView) -> None:
    """Takes every attribute of the dialect off an op."""
    for name in [name for name in op.attributes if name.startswith(PREFIX)]:
        del op.attributes[name]


def indices(numbers: Iterable[int]) -> ir.ArrayAttr:
    """A list of indices as an attribute."""
    i64 = ir.IntegerType.get_signless(64)
    return ir.ArrayAttr.get([ir.IntegerAttr.get(i64, i) for i in numbers])


def read_indices(attribute: ir.Attribute) -> list[int]:
    return [int(element.value) for element in attribute]


@dataclasses.dataclass(frozen=True)
class Gradient:
    """What a `metagrad.grad` op says.

    Attributes:
      op: the op: operands of the loss -> (value, auxiliary results, gradients).
    """

    op: ir.Operation | ir.OpView

    ATTRIBUTES = ("loss", "wrt", "kept", "active", "vjp", "grad", "grad_vjp", "label")
    DERIVATIVES = ("vjp", "grad", "grad_vjp")

    @property
    def loss(self) -> str:
        """The name of the loss."""
        return self.op.attributes["loss"].value

    @property
    def wrt(self) -> list[int]:
        """The operands that are differentiated, in the order of the gradients."""
        return read_indices(self.op.attributes["wrt"])

    @property
    def kept(self) -> list[int]:
        """The results that are passed on: what the frontend lists, whose functions are made for
        just these, or what is read.
        """
        if "kept" in self.op.attributes:
            return read_indices(self.op.attributes["kept"])
        return [i for i, result in enumerate(self.op.results) if any(True for _ in result.uses)]

    @property
    def active(self) -> list[int] | None:
        """The operands in which a derivative is wanted; None where the op does not say."""
        if "active" not in self.op.attributes:
            return None
        return read_indices(self.op.attributes["active"])

    @property
    def whose(self) -> str:
        """ " of " and the loss's name and line, for messages; empty where the op has no label."""
        return f" of {self.op.attributes['label'].value}" if "label" in self.op.attributes else ""

    def by_jax(self, derivative: str) -> str | None:
        """The name of a derivative that JAX made in Enzyme's place: "vjp" of the loss, its "grad",
        or "grad_vjp".
        """
        attributes = self.op.attributes
        return attributes[derivative].value if derivative in attributes else None


def gradient_attributes(
    symbols: dict[str, str], wrt: Iterable[int], kept: Iterable[int], active: Iterable[int], label
) -> dict[str, ir.Attribute]:
    """The attributes of a `metagrad.grad`.

    `symbols` names the loss and the derivatives that JAX made.
    """
    named = {name: ir.FlatSymbolRefAttr.get(symbol) for name, symbol in symbols.items()}
    return named | {
        "wrt": indices(wrt),
        "label": ir.StringAttr.get(label),
        "kept": indices(kept),
        "active": indices(active),
    }


def gradient(
    results: Sequence[ir.Type], operands: Sequence[ir.Value], attributes: dict[str, ir.Attribute]
) -> ir.Operation:
    """Builds a `metagrad.grad` at the current insertion point."""
    return ir.Operation.create(
        GRAD, results=list(results), operands=list(operands), attributes=attributes
    )
