"""`python -m benchmarks.cluster`: what a metagradient of a large model takes on n hosts, on paper.

The state is sharded over all devices (FSDP): parameters, both moments of Adam, slots, gradients and
cotangents. A device then has one N-th of a state, its share of its host's memory and disk, and its
share of the network. Everything else is the planner's: `streamed_plan` finds the segments and the
tiers of the slots from sizes and seconds, as for a run on this machine.

    compute     a training step multiplies 6 P numbers for each token: 3 products of matrices, of 2
                P each; a step's VJP, forward over reverse, has 8
    memory      an update reads and writes the state; so does the update's VJP
    network     bytes that a device receives in a step, in units of the parameters' bytes: counted
                in small programs (`--check`). What falls as 1 / N beside is left out
    a step      takes the longest of compute and network, and then the update

The rates of an H100 host are those of data sheets, and the part of the peak that products reach is
an assumption; every one is an option. Nothing of it was run.

`--check` compiles a small GPT for 2, 4 and 8 CPU devices, and compares bytes of slots and of
collectives with what the model says of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import re
import shlex
import sys
import types
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import record
from benchmarks.__main__ import RESULTS, positive, words
from metagrad.runtime.byte_sizes import format_bytes, parse_bytes
from metagrad.runtime.schedules.auto import Auto
from metagrad.runtime.schedules.auto_streamed import streamed_plan
from metagrad.runtime.schedules.costs import Costs, Sizes

CHECKED = (2, 4, 8)
"""Devices of the small programs."""

STEP_TRAFFIC, VJP_TRAFFIC = 3.0, 6.25
"""What a device receives in a training step and in a step's VJP, in units of (N - 1) / N of the
parameters' bytes, as `--check` counts it. In a training step parameters are gathered once, and the
gradient is summed over devices, which XLA:CPU does by an all-reduce, twice the bytes of a
reduce-scatter. The VJP also sends what falls as 1 / N, the parts of a batch that devices have; that
is not in the model."""


@dataclasses.dataclass(frozen=True)
class Host:
    """One host, and what it has; rates are bytes a second.

    Attributes:
      devices: how many.
      flops: of one device, in products of matrices, a second.
      efficiency: the part of these that a training step reaches.
      device_memory, host_memory, disk: bytes.
      device_rate: of a device's own memory.
      host_rate: between one device and the host's memory.
      disk_rate, network_rate: of the host.
    """

    devices: int
    flops: float
    efficiency: float
    device_memory: int
    host_memory: int
    disk: int
    device_rate: float
    host_rate: float
    disk_rate: float
    network_rate: float


H100_HOST = Host(
    devices=8,
    flops=989e12,
    efficiency=0.4,
    device_memory=80 * 10**9,
    host_memory=1500 * 10**9,
    disk=24 * 10**12,
    device_rate=3.35e12,
    host_rate=50e9,
    disk_rate=20e9,
    network_rate=400e9,
)
"""Eight H100 SXM, PCIe 5, eight NVMe disks, eight network cards of 400 Gbit/s."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A training run.

    Attributes:
      state: bytes of parameters and both moments, f32 each.
      tokens: of a batch, all devices together.
      activations: bytes on a device that one step's VJP takes, batch and all.
    """

    state: int
    tokens: int
    activations: int

    @property
    def parameters(self) -> float:
        """How many."""
        return self.state / 12

    def gather_bytes(self, hosts: int) -> float:
        """What a host receives from the others when parameters (f32) are gathered.

        Its devices pass it on to each other over faster links.
        """
        return 4 * self.parameters * (hosts - 1) / hosts

    def costs(self, host: Host, hosts: int) -> Costs:
        """Seconds and bytes of one device."""
        devices = hosts * host.devices
        products = 2 * self.parameters * self.tokens / devices / (host.flops * host.efficiency)
        gather = self.gather_bytes(hosts) / host.network_rate
        state = self.state / devices
        return Costs(
            Sizes(math.ceil(state), math.ceil(state / 3), workspace=self.activations),
            inner=max(3 * products, STEP_TRAFFIC * gather),
            update=2 * state / host.device_rate,
            vjp=max(8 * products, VJP_TRAFFIC * gather) + 4 * state / host.device_rate,
            slot_write=host.device_rate,
            slot_read=host.device_rate,
            host_write=host.host_rate,
            host_read=host.host_rate,
            disk_write=host.disk_rate / host.devices,
            disk_read=host.disk_rate / host.devices,
        )


def row(model: Model, host: Host, hosts: int, steps: int) -> dict[str, Any]:
    """One line of the table. `problem` says why there is no plan."""
    costs = model.costs(host, hosts)
    devices = hosts * host.devices
    budgets = Auto(
        int(0.9 * host.device_memory),
        int(0.8 * host.host_memory) // host.devices,
        host.disk // host.devices,
    )
    line: dict[str, Any] = {"hosts": hosts, "devices": devices, "state": costs.sizes.state}
    try:
        plan = streamed_plan(
            budgets, steps, gradients=True, costs=costs, device_free=0, host_free=0
        )
    except ValueError as error:
        return line | {"problem": str(error)}
    training = steps * costs.advance
    seconds = plan.predicted_seconds
    assert seconds is not None and plan.estimate is not None
    sent = plan.advances * STEP_TRAFFIC + steps * (VJP_TRAFFIC + STEP_TRAFFIC)
    return line | {
        "segment": plan.segment,
        "bytes": plan.bytes_by_tier,
        "step_seconds": costs.advance,
        "training_seconds": training,
        "seconds": seconds,
        "waiting": plan.estimate.waiting,
        "ratio": seconds / training,
        "network_bytes_of_a_host": sent * model.gather_bytes(hosts),
    }


def table(rows: list[dict[str, Any]]) -> Table:
    rich_table = Table(title="one metagradient, from the cost model", title_justify="left")
    for heading in (
        "hosts",
        "state on a device",
        "segment",
        "device",
        "host",
        "disk, of a device",
        "s a step",
        "training",
        "metagradient",
        "x plain",
        "waiting",
        "network, of a host",
    ):
        rich_table.add_column(heading, justify="right")
    for line in rows:
        start = str(line["hosts"]), format_bytes(line["state"])
        if "problem" in line:
            rich_table.add_row(*start, line["problem"])
            continue
        bytes_of = [format_bytes(line["bytes"].get(tier, 0)) for tier in ("device", "host", "disk")]
        rich_table.add_row(
            *start,
            str(line["segment"]),
            *bytes_of,
            f"{line['step_seconds']:.2f}",
            f"{line['training_seconds'] / 3600:.1f} h",
            f"{line['seconds'] / 3600:.1f} h",
            f"{line['ratio']:.2f}",
            f"{line['waiting'] / line['seconds']:.1%}",
            format_bytes(int(line["network_bytes_of_a_host"])),
        )
    return rich_table


# --- Against small programs -----------------------------------------------------------------------

_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_COLLECTIVE = re.compile(rf" = (?P<types>.*?) (?P<kind>{_KINDS})(?:-start)?\(")
_COMPUTATION = re.compile(r"^((?:ENTRY )?%?[\w.\-]+) .*\{$")
_ARRAY = re.compile(r"(f64|f32|bf16|s32|s64|u32|pred)\[([\d,]*)\]")
_WIDTHS = {"f64": 8, "s64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "pred": 1}


def received(hlo: str, devices: int) -> dict[str, float]:
    """Bytes that a device receives, for each computation of a program that is called once."""
    factor = (devices - 1) / devices
    of_kind = {
        "all-gather": factor,
        "all-reduce": 2 * factor,
        "reduce-scatter": devices - 1,
        "all-to-all": factor,
        "collective-permute": 1,
    }
    totals: dict[str, float] = {}
    name = ""
    for line in hlo.splitlines():
        if started := _COMPUTATION.match(line):
            name = started.group(1)
        if sent := _COLLECTIVE.search(line):
            size = sum(
                _WIDTHS[width] * math.prod(map(int, filter(None, shape.split(","))))
                for width, shape in _ARRAY.findall(sent["types"])
            )
            totals[name] = totals.get(name, 0) + size * of_kind[sent["kind"]]
    return totals


def check(console: Console) -> list[dict[str, Any]]:
    """Compiles a small GPT for several devices; prints what was counted, and what was expected."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import AxisType, Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    import metagrad
    from benchmarks.contenders.contender import place
    from benchmarks.models import gpt

    gpt.BATCH = 8
    problem = place(gpt.model(2), 4)
    params = problem.state0[0]
    parameter_bytes = sum(4 * leaf.size for leaf in jax.tree.leaves(params))
    state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(problem.state0))
    lines = []
    for count in CHECKED:
        axes = (AxisType.Auto,)
        mesh = Mesh(np.array(jax.devices()[:count]), ("data",), axis_types=axes)

        def shape(x, spec, mesh=mesh):
            return jax.ShapeDtypeStruct(jnp.shape(x), x.dtype, sharding=NamedSharding(mesh, spec))

        def divided(x, count=count, shape=shape):
            axes = [i for i, size in enumerate(jnp.shape(x)) if size % count == 0 and size > 2]
            return shape(x, P(*axes[-1:] and [None] * axes[-1] + ["data"]))

        state = jax.tree.map(divided, problem.state0)
        # A model that is sharded for training gathers its parameters before it uses them.
        whole = lambda x, mesh=mesh: jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P()))
        of_batch = lambda x, shape=shape: shape(x, P(None, "data"))
        arguments = (
            state,
            jax.tree.map(lambda x, shape=shape: shape(x, P()), problem.meta),
            jax.tree.map(of_batch, problem.batches),
            jax.tree.map(lambda x, shape=shape: shape(x, P("data")), problem.held_out),
        )

        def gradient(loss, whole=whole):
            return metagrad.grad(lambda p, *rest: loss(jax.tree.map(whole, p), *rest))

        step = metagrad.compile(problem.model.make_step(types.SimpleNamespace(grad=gradient)))
        compiled = {
            slots: step.metagradient(problem.model.outer, schedule=metagrad.Binomial(slots))
            .lower(*arguments)
            .compile()
            for slots in (1, 3)
        }
        temporaries = [c.memory_analysis().temp_size_in_bytes for c in compiled.values()]
        slot = (temporaries[1] - temporaries[0]) / 2
        in_loops = sorted(
            size
            for name, size in received(compiled[3].as_text(), count).items()
            if not name.startswith("ENTRY")
        )
        unit = parameter_bytes * (count - 1) / count
        line = {
            "devices": count,
            "slot": slot,
            "slot, expected": (state_bytes + parameter_bytes) / count,
            "received in a training step, in parameters": in_loops[0] / unit,
            "received in a VJP, in parameters": in_loops[-1] / unit,
        }
        console.print(
            f"{count} devices: a slot takes {format_bytes(int(slot))} of a device "
            f"({slot / line['slot, expected']:.2f} of what the model says); a training step "
            f"receives {in_loops[0] / unit:.2f} times the parameters (model: {STEP_TRAFFIC}), "
            f"a VJP {in_loops[-1] / unit:.2f} times"
        )
        lines.append(line)
    # c + d / N, by two of the programs; the third says whether that is the law.
    few, more, most = (line["received in a VJP, in parameters"] for line in lines)
    falling = (few - more) / (1 / CHECKED[0] - 1 / CHECKED[1])
    constant = few - falling / CHECKED[0]
    console.print(
        f"of a VJP {constant:.2f} times the parameters do not depend on N (model: {VJP_TRAFFIC}), "
        f"and {falling:.1f} / N fall: {constant + falling / CHECKED[2]:.2f} for {CHECKED[2]} "
        f"devices, where {most:.2f} were counted"
    )
    return lines


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    size = lambda name: lambda text: parse_bytes(name, text)
    parser.add_argument("--state", type=size("--state"), default="1TB")
    parser.add_argument("--hosts", type=words(positive), default=(8, 16, 32, 64, 128))
    parser.add_argument("--steps", type=positive, default=10_000)
    parser.add_argument("--tokens", type=positive, default=4 * 2**20, help="of a batch")
    parser.add_argument("--activations", type=size("--activations"), default="20GB")
    for field in dataclasses.fields(Host):
        default = getattr(H100_HOST, field.name)
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=type(default), default=default
        )
    parser.add_argument("--check", action="store_true", help="compile small programs instead")
    parser.add_argument("--out", metavar="DIR", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    console = Console() if sys.stdout.isatty() else Console(width=160)
    command = "python -m benchmarks.cluster " + shlex.join(sys.argv[1:] if argv is None else argv)
    if options.check:
        flags = "--xla_force_host_platform_device_count=8"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
        written = record.provenance(command) | {"results": check(console)}
        record.write(options.out / "cluster_check.json", written)
        return 0
    host = Host(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Host)})
    model = Model(options.state, options.tokens, options.activations)
    rows = [row(model, host, hosts, options.steps) for hosts in options.hosts]
    console.print(table(rows))
    record.write(options.out / "cluster.json", record.provenance(command) | {"results": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
