"""What `metagrad-opt --pass=...` says: passes in order, some with options in braces.

cut,differentiate,schedule{schedule=LazyKary(k=2) steps=8}
pieces,kernel{kernel=reverse steps=8 state_slots=8 gradient_slots=8}
"""

from __future__ import annotations

import ast
import dataclasses
from typing import Any

from jaxlib.mlir import ir

from metagrad.compiler.passes import kernels as kernel_pass
from metagrad.compiler.passes import schedule as schedule_pass
from metagrad.compiler.pipeline import PASSES
from metagrad.runtime import schedules
from metagrad.runtime.schedules.plan import Plan
from metagrad.runtime.schedules.segment_tables import KERNELS, Segment

OPTIONS = {
    schedule_pass.NAME: ("schedule", "steps"),
    kernel_pass.NAME: ("kernel", "steps", "state_slots", "gradient_slots", "checksums"),
}
"""The options of the passes that have any."""

SCHEDULES = ("LazyKary", "Binomial", "Periodic", "StoreAll")
"""The schedules that a pass can follow. `Auto` is none: it wants sizes, or the machine's memory."""

_CLOSING = {"(": ")", "{": "}", "[": "]"}


@dataclasses.dataclass(frozen=True)
class PassCall:
    """One pass, and its options as they were written."""

    name: str
    options: dict[str, str]

    def run(self, module: ir.Module) -> None:
        """Runs the pass on the module, in place.

        Raises:
          ValueError: an option is missing or wrong, or the module does not fit the pass.
        """
        if self.name == schedule_pass.NAME:
            schedule_pass.run(module, self._plan(module))
        elif self.name == kernel_pass.NAME:
            kernel_pass.run(module, self._kernel, self._segment)
        else:
            PASSES[self.name].run(module)

    def _plan(self, module: ir.Module) -> Plan:
        inner = any(op.type.results for op in module.body.operations if op.name.value == "inner")
        return parse_schedule(self.options["schedule"]).plan(self._steps, gradients=inner)

    @property
    def _steps(self) -> int:
        steps = self.options.get("steps")
        if steps is None:
            raise ValueError(
                f"pass {self.name!r} needs --steps=T, the number of training steps, or "
                f"{self.name}{{steps=T}}"
            )
        if not steps.lstrip("-").isdigit():
            raise ValueError(f"pass {self.name!r}: steps={steps} is not a number of training steps")
        return int(steps)

    @property
    def _kernel(self) -> str:
        kernel = self.options.get("kernel", "")
        if kernel not in KERNELS:
            raise ValueError(
                f"pass 'kernel' writes {', '.join(KERNELS)}: kernel{{kernel={KERNELS[0]} steps=L}}"
            )
        return kernel

    @property
    def _segment(self) -> Segment:
        return Segment(
            self._steps,
            int(self.options.get("state_slots", "1")),
            int(self.options.get("gradient_slots", "0")),
            checksums=self.options.get("checksums") == "True",
        )


def parse_passes(text: str, defaults: dict[str, dict[str, str]]) -> list[PassCall]:
    """Reads a list of passes.

    Args:
      text: names between commas, each with its options in braces or without.
      defaults: for passes by name, options that hold where the text has none.

    Raises:
      ValueError: an unknown pass or option, or braces that are not closed.
    """
    calls = []
    for part in _split(text, ","):
        name, brace, rest = part.partition("{")
        if name not in PASSES:
            raise ValueError(f"there is no pass {name!r}; there are {', '.join(PASSES)}")
        if brace and not rest.endswith("}"):
            raise ValueError(f"pass {name!r}: after its options comes a comma, not {rest!r}")
        options = dict(defaults.get(name, {}))
        for option in _split(rest.removesuffix("}"), " "):
            key, equals, value = option.partition("=")
            if key not in OPTIONS.get(name, ()):
                known_options = ", ".join(OPTIONS.get(name, ())) or "none"
                raise ValueError(f"pass {name!r} has no option {key!r}; it has {known_options}")
            if not equals:
                raise ValueError(f"pass {name!r}: write {key}=VALUE")
            options[key] = value
        calls.append(PassCall(name, options))
    return calls


def parse_schedule(text: str, names: tuple[str, ...] = SCHEDULES):
    """A schedule from text like "LazyKary(k=4)" or "StoreAll()".

    Args:
      names: of the schedules that are allowed.

    Raises:
      ValueError: the text is not a call of one of metagrad's schedules with literal arguments that
        fit it.
    """
    classes = {name: getattr(schedules, name) for name in names}
    try:
        call: Any = ast.parse(text.strip(), mode="eval").body
        arguments = [ast.literal_eval(value) for value in call.args]
        named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        schedule_class = classes[_class_name(call.func)]
    except (SyntaxError, AttributeError, KeyError, ValueError):
        raise ValueError(
            f"{text!r} is not a schedule; write one of {', '.join(classes)} with its arguments, "
            "like LazyKary(k=4)"
        ) from None
    try:
        return schedule_class(*arguments, **named)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{text!r}: {error}") from None


def _class_name(function: Any) -> str:
    """Of `LazyKary` and of `metagrad.LazyKary`.

    Raises:
      AttributeError: it is neither.
    """
    is_ours = isinstance(function, ast.Attribute) and ast.unparse(function.value) == "metagrad"
    return function.attr if is_ours else function.id


def _split(text: str, separator: str) -> list[str]:
    """The parts of a text between separators that stand outside of brackets; empty ones are left
    out.
    """
    parts = [""]
    open_brackets: list[str] = []
    for character in text:
        if open_brackets and character == open_brackets[-1]:
            open_brackets.pop()
        elif character in _CLOSING:
            open_brackets.append(_CLOSING[character])
        if character == separator and not open_brackets:
            parts.append("")
        else:
            parts[-1] += character
    if open_brackets:
        raise ValueError(f"{text!r} lacks a closing {open_brackets[-1]!r}")
    return [part for part in parts if part]
