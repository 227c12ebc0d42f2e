"""The frontier of memory and time of all schedules on one model, and where `Auto` lies on it.

    python -m benchmarks.frontier [--model mlp] [--steps 64] [--out frontier.png]

Times and bytes are predicted from measured costs, which benchmarks/plan_accuracy.py compares with
runs. For each budget `Auto` is compared with the fastest other plan that fits it.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path

import metagrad
from benchmarks.plan_accuracy import costs_of
from metagrad.runtime.schedules.costs import Costs, memory, predict


def schedules() -> Iterator[object]:
    """All schedules but `Auto`, with many arguments."""
    for keep, rebuild in ((False, 1), (True, 1), (True, 2), (True, 4), (True, 8)):
        for number in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64):
            yield metagrad.Binomial(number, keep, rebuild)
            yield metagrad.Periodic(number, keep, rebuild)
            if number > 1:
                yield metagrad.LazyKary(number, keep, rebuild)
    for keep in (True, False):
        yield metagrad.StoreAll(keep)


def points(steps: int, costs: Costs) -> dict[str, list[tuple[int, float]]]:
    """Bytes and seconds of each plan, by the name of its schedule's class; `Auto` for each size."""
    found: dict[str, list[tuple[int, float]]] = {}
    for schedule in schedules():
        plan = schedule.plan(steps, gradients=costs.sizes.gradient > 0)  # type: ignore[attr-defined]
        point = memory(plan, costs.sizes), predict(plan, costs)
        found.setdefault(type(schedule).__name__, []).append(point)
    sizes = sorted({size for of_class in found.values() for size, _ in of_class})
    found["Auto"] = []
    for size in sizes:
        # The tables of Auto's plan may be some kB larger than another's.
        plan = metagrad.Auto(size + 64 * steps).plan(
            steps, gradients=costs.sizes.gradient > 0, sizes=costs.sizes, measure=lambda: costs
        )
        found["Auto"].append((size, predict(plan, costs)))
    return found


def worst_ratio(found: dict[str, list[tuple[int, float]]]) -> float:
    """The most that `Auto` takes of the time of the fastest other plan in the same memory."""
    others = [point for name, of_class in found.items() if name != "Auto" for point in of_class]
    return max(
        seconds / min(other for size, other in others if size <= budget)
        for budget, seconds in found["Auto"]
    )


def draw(found: dict[str, list[tuple[int, float]]], path: Path) -> None:
    """Writes the plot."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    for name, of_class in found.items():
        sizes, seconds = zip(*sorted(of_class))
        mebibytes = [size / 2**20 for size in sizes]
        if name == "Auto":
            axes.step(mebibytes, seconds, where="post", color="black", label=name)
        else:
            axes.scatter(mebibytes, seconds, s=14, label=name)
    axes.set(xscale="log", yscale="log", xlabel="memory (MiB)", ylabel="predicted time (s)")
    axes.legend()
    figure.savefig(path, dpi=150, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mlp")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model = importlib.import_module(f"benchmarks.models.{options.model}").model()
    step = metagrad.compile(model.make_step(metagrad))
    costs = costs_of(step, model, model.draw_batches(options.steps))
    found = points(options.steps, costs)
    print(f"Auto takes at most {worst_ratio(found):.3f} of the fastest other plan's time")
    if options.out:
        draw(found, options.out)


if __name__ == "__main__":
    main()
