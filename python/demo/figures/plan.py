"""Plot: how a plan goes through a training run and back.

It is in the manner of Figure 3 of the Replay paper (Engstrom et al. 2025). Steps go right, work
goes down. A diagonal is a run of training steps, a short stroke back is a VJP, and a grey bar is a
state that waits in its slot: a horizontal line crosses as many bars as states are held at that
moment. On the left is a run short enough to read each state's number, on the right the demo's run.
"""

from matplotlib.collections import LineCollection

from metagrad.demo.figures import style
from metagrad.demo.timeline import COMPUTED, FROM_KEPT, timeline

NUMBERED = 32  # up to this many steps, states are numbered


def draw(small, plan):
    """`small` and `plan` are `metagrad.runtime.schedules.plan.Plan`s of one schedule."""
    figure, axes = style.figure(13, 7, 2)
    for ax, drawn_plan in zip(axes, (small, plan)):
        panel(ax, drawn_plan)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    figure.suptitle(f"{plan.schedule}: the order in which states are reached, held and reversed")
    return figure


def panel(ax, plan):
    events = timeline(plan)
    numbered = plan.steps <= NUMBERED
    wide = 1.0 if numbered else 0.4

    def strokes(segments, colour, width, label, style="solid", order=2):
        ax.add_collection(
            LineCollection(
                segments, colors=colour, linewidths=width, linestyles=style, zorder=order
            )
        )
        if segments:
            ax.plot(
                [],
                [],
                color=colour,
                linewidth=2 * width / wide if width < 2 else width,
                label=label,
            )

    # A state that is only on its way from save to load within one moment needs no bar.
    state_bars = [
        ((held.step, held.since), (held.step, held.until))
        for held in events.states
        if held.until > held.since
    ]
    strokes(state_bars, style.GREY, 5 * wide, "state held", order=1)
    gradient_bars = [
        ((held.step + 0.5, held.since), (held.step + 0.5, held.until))
        for held in events.gradients
        if held.until > held.since
    ]
    strokes(gradient_bars, "#bfe3d5", 3 * wide, "gradient held", order=1)

    def runs(wanted):
        return [
            ((run.first, run.time), (run.last, run.time + run.last - run.first))
            for run in events.runs
            if wanted(run)
        ]

    strokes(runs(lambda run: run.segment == 0), style.BLACK, 1.6 * wide, "training run")
    strokes(
        runs(lambda run: run.segment and run.kind == COMPUTED), style.BLUE, 1.6 * wide, "replayed"
    )
    strokes(
        runs(lambda run: run.segment and run.kind == FROM_KEPT),
        style.ORANGE,
        1.6 * wide,
        "updated from a kept gradient",
    )
    strokes(
        [((vjp.step + 1, vjp.time), (vjp.step, vjp.time + 1)) for vjp in events.vjps],
        style.RED,
        2.2 * wide,
        "VJP",
    )

    if numbered:
        for held in events.states:
            if held.until > held.since:
                ax.text(
                    held.step,
                    held.since,
                    str(held.step),
                    fontsize=7,
                    ha="center",
                    va="center",
                    zorder=4,
                    bbox={
                        "boxstyle": "circle,pad=0.15",
                        "facecolor": "white",
                        "edgecolor": style.BLACK,
                        "linewidth": 0.6,
                    },
                )
    ax.set(
        xlim=(-0.02 * plan.steps - 0.5, plan.steps * 1.02 + 0.5),
        ylim=(events.end * 1.02, -0.03 * events.end),
        xlabel="training step",
        ylabel="work done, in steps and VJPs",
        title=f"{plan.steps} steps: {plan.state_slots} states and {plan.gradient_slots} gradients "
        f"held, {plan.advances} steps run",
    )
    return events
