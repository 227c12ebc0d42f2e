"""Predicted against measured: time and memory of fused programs, for several plans of two models.

    python -m benchmarks.plan_accuracy [--steps 24] [--models mlp convnet] [--out results.json]

The costs are measured first, on the kernel that reverses a segment. They know nothing of the
programs that are timed then. Times are the lower quartile of some runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import statistics
import time
from pathlib import Path

import jax

import metagrad
from metagrad.api.step_costs import PROBE_STEPS, ProbeSource, step_costs
from metagrad.runtime.schedules.costs import Costs, memory, predict

SCHEDULES = (
    metagrad.StoreAll(),
    metagrad.StoreAll(keep_gradients=False),
    metagrad.Binomial(4),
    metagrad.Binomial(8),
    metagrad.Binomial(3, rebuild=3),
    metagrad.LazyKary(3),
    metagrad.Periodic(5, keep_gradients=False),
)


def costs_of(step, model, batches) -> Costs:
    """The costs of a model's step."""
    mg = step.metagradient(model.outer, wrt="meta", runtime="streamed")
    lowered = mg.lower(model.state0, model.meta, batches, model.held_out)
    program, sizes = lowered.program, lowered.plan.sizes
    layout = program.layout
    sizes = dataclasses.replace(sizes, step=sizes.batch)
    source = ProbeSource(
        program.snapshots,
        program.platform,
        program.callbacks,
        (),
        program.has_gradients,
        sizes,
        layout.state,
        layout.meta,
        layout.batch,
    )
    first = jax.tree.map(lambda leaf: leaf[:PROBE_STEPS], batches)
    costs = step_costs(source, 2**32, jax.tree.leaves((model.state0, model.meta, first)))
    # The probe has no outer function.
    held_out = sum(leaf.nbytes for leaf in jax.tree.leaves(model.held_out))
    sizes = dataclasses.replace(costs.sizes, workspace=costs.sizes.workspace + held_out)
    return dataclasses.replace(costs, sizes=sizes)


def compare(name: str, steps: int, runs: int) -> list[dict]:
    """Predicted and measured seconds and bytes of each schedule for one model."""
    model = importlib.import_module(f"benchmarks.models.{name}").model()
    step = metagrad.compile(model.make_step(metagrad))
    batches = model.draw_batches(steps)
    costs = costs_of(step, model, batches)
    arguments = (model.state0, model.meta, batches, model.held_out)
    rows = []
    for schedule in SCHEDULES:
        mg = step.metagradient(model.outer, wrt="meta", schedule=schedule, runtime="fused")
        compiled = mg.lower(*arguments).compile()
        plan, analysis = compiled.plan, compiled.memory_analysis()
        times = []
        for _ in range(runs + 1):
            before = time.perf_counter()
            jax.block_until_ready(compiled(*arguments))
            times.append(time.perf_counter() - before)
        rows.append(
            {
                "model": name,
                "schedule": str(schedule),
                "predicted_seconds": predict(plan, costs),
                "measured_seconds": statistics.quantiles(times[1:], n=4)[0],
                "predicted_bytes": memory(plan, costs.sizes),
                "measured_bytes": analysis.argument_size_in_bytes
                + analysis.output_size_in_bytes
                + analysis.temp_size_in_bytes
                - analysis.alias_size_in_bytes,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--models", nargs="+", default=["mlp", "convnet"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = [row for name in options.models for row in compare(name, options.steps, options.runs)]
    for row in rows:
        seconds, size = (
            row[f"predicted_{unit}"] / row[f"measured_{unit}"] for unit in ("seconds", "bytes")
        )
        print(
            f"{row['model']:8} {row['schedule']:42} {row['measured_seconds']:8.3f} s, predicted "
            f"{seconds:5.2f} of it; {row['measured_bytes'] / 2**20:7.1f} MiB, predicted {size:.2f}"
        )
    worst = max(abs(row["predicted_seconds"] / row["measured_seconds"] - 1) for row in rows)
    print(f"the largest error of a time is {worst:.0%}, of {len(rows)} points")
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
