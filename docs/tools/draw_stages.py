"""Draws the functions of a program at each stage of the compiler: docs/stages/*.svg.

    python docs/tools/draw_stages.py [FOLDER]

The pictures are of a real step, the README's. A box is a function of the module, with the number of
its operations; an arrow goes to a function that it calls or that an op of it names. Boxes are
coloured by the ops that stand for derivatives.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot
from matplotlib.patches import FancyBboxPatch

import metagrad
from metagrad.compiler import pipeline
from metagrad.compiler.dialect import context

FOLDER = Path(__file__).resolve().parent.parent / "stages"

_COLOURS = {
    "metagrad.grad": ("#ffe3c2", "metagrad.grad: an inner gradient, not yet expanded"),
    "enzyme": ("#d9d2f0", "derivatives that Enzyme has yet to write"),
    "stablehlo.while": ("#cfe3f7", "the loops that read the plan's tables"),
    "": ("#e8efe4", "plain StableHLO"),
}
_WIDTH, _HEIGHT, _ACROSS, _DOWN = 2.2, 0.62, 3.1, 0.9


@dataclasses.dataclass(frozen=True)
class Function:
    """A function of a module.

    Attributes:
      name: without the @.
      operations: the number of its operations, those of its regions among them.
      special: the ops that stand for derivatives or loops.
      names: the functions that it calls or names.
    """

    name: str
    operations: int
    special: tuple[str, ...]
    names: tuple[str, ...]


def lowered():
    """The README's step and outer function, lowered for 80 steps."""

    @metagrad.compile
    def train_step(w, meta, batch):
        x, y, i = batch
        loss = lambda w: jnp.mean(meta["weight"][i] * (x @ w - y) ** 2)
        return w - meta["rate"] * metagrad.grad(loss)(w)

    outer = lambda w, clean, truth: jnp.mean((clean @ (w - truth)) ** 2)
    shape = lambda *axes: jax.ShapeDtypeStruct(axes, jnp.float32)
    batches = shape(80, 8, 3), shape(80, 8), jax.ShapeDtypeStruct((80, 8), jnp.int32)
    meta = {"weight": shape(64), "rate": shape()}
    return train_step.metagradient(outer).lower(shape(3), meta, batches, shape(32, 3), shape(3))


def functions(text: str) -> list[Function]:
    """The functions of a module."""
    module = context.parse(text)
    found = []
    with module.context:
        for op in module.body.operations:
            if op.operation.name != "func.func":
                continue
            inside: list[str] = []
            op.operation.walk(lambda inner, inside=inside: _note(inner, inside))
            names = re.findall(r"@(\w+)", str(op))
            special = {n for n in inside if n.startswith(("metagrad.", "enzyme."))}
            special |= {n for n in inside if n == "stablehlo.while"}
            found.append(
                Function(
                    op.name.value,
                    len(inside) - 1,  # the function itself is one
                    tuple(sorted(special)),
                    tuple(dict.fromkeys(n for n in names if n != op.name.value)),
                )
            )
    known = {function.name for function in found}
    return [dataclasses.replace(f, names=tuple(n for n in f.names if n in known)) for f in found]


def _note(op, names: list[str]):
    from jaxlib.mlir import ir

    names.append(op.name)
    return ir.WalkResult.ADVANCE


def draw(stage: str, found: list[Function], path: Path) -> None:
    """Draws the functions of a stage into a file."""
    places = _places(found)
    columns = 1 + max(column for column, _ in places.values())
    rows = 1 + max(row for _, row in places.values())
    size = (columns * _ACROSS, rows * _DOWN + 0.7)
    figure, axes = pyplot.subplots(figsize=size)
    axes.set(xlim=(-0.2, size[0] - 0.2), ylim=(-rows * _DOWN, 0.7))
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.text(0, 0.35, f"the module at the stage “{stage}”", size=11, weight="bold")
    for function in found:
        _box(axes, function, *_corner(places[function.name]))
        for name in function.names:
            _arrow(axes, places[function.name], places[name])
    _save(figure, path)


def _places(found: list[Function]) -> dict[str, tuple[int, int]]:
    """A column and a row for each function: callers stand to the left of what they call."""
    depth = {function.name: 0 for function in found}
    for _ in found:  # a chain of calls is no longer than that
        for function in found:
            for name in function.names:
                depth[name] = max(depth[name], depth[function.name] + 1)
    order = sorted(found, key=lambda function: (depth[function.name], not function.names))
    taken: dict[int, int] = {}
    places = {}
    for function in order:
        column = depth[function.name]
        places[function.name] = column, taken.get(column, 0)
        taken[column] = taken.get(column, 0) + 1
    return places


def _corner(place: tuple[int, int]) -> tuple[float, float]:
    column, row = place
    return column * _ACROSS, -row * _DOWN - _HEIGHT


def _kind(function: Function) -> str:
    names = " ".join(function.special)
    return next(kind for kind in _COLOURS if kind in names)


def _box(axes, function: Function, left: float, bottom: float) -> None:
    colour, _ = _COLOURS[_kind(function)]
    axes.add_patch(
        FancyBboxPatch(
            *((left, bottom), _WIDTH, _HEIGHT),
            boxstyle="round,pad=0.02",
            facecolor=colour,
            edgecolor="#555555",
            linewidth=0.8,
            zorder=2,
        )
    )
    middle = left + _WIDTH / 2
    axes.text(
        *(middle, bottom + 0.40, f"@{function.name}"),
        ha="center",
        size=9,
        family="monospace",
        zorder=3,
    )
    noun = "operation" if function.operations == 1 else "operations"
    below = ", ".join(function.special) or f"{function.operations} {noun}"
    axes.text(middle, bottom + 0.13, below, ha="center", size=7, color="#333333", zorder=3)


def _arrow(axes, start: tuple[int, int], end: tuple[int, int]) -> None:
    (x0, y0), (x1, y1) = _corner(start), _corner(end)
    axes.annotate(
        "",
        xy=(x1 - 0.03, y1 + _HEIGHT / 2),
        xytext=(x0 + _WIDTH + 0.03, y0 + _HEIGHT / 2),
        zorder=1,
        arrowprops={"arrowstyle": "->", "color": "#777777", "linewidth": 0.9},
    )


def legend(path: Path) -> None:
    """Draws what the colours mean."""
    figure, axes = pyplot.subplots(figsize=(9, 0.7))
    axes.set(xlim=(0, 9), ylim=(0, 0.7))
    axes.set_axis_off()
    for place, (colour, text) in enumerate(_COLOURS.values()):
        x, y = 4.6 * (place % 2), 0.4 - 0.35 * (place // 2)
        axes.add_patch(FancyBboxPatch((x + 0.05, y), 0.3, 0.15, "round,pad=0.02", fc=colour))
        axes.text(x + 0.5, y + 0.02, text, size=8)
    _save(figure, path)


def _save(figure, path: Path) -> None:
    """Writes a file that is the same each time, with its texts as texts."""
    figure.savefig(path, metadata={"Date": None}, facecolor="white", bbox_inches="tight")
    pyplot.close(figure)


def main(folder: Path = FOLDER) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    program = lowered()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "metagrad"}):
        for stage in pipeline.STAGES:
            draw(stage, functions(program.ir(stage)), folder / f"{stage}.svg")
        legend(folder / "legend.svg")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
