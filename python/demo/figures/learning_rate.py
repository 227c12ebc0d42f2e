"""Plot: the learning-rate schedule that metagradient descent learned, and the rounds before it."""

import numpy as np

from metagrad.demo.figures import style


def draw(log_rates, best, constant):
    """The figure.

    Args:
      log_rates: the schedule of each round, [T] each.
      best: the number of the round that is kept.
      constant: the best constant rate of the grid.
    """
    figure, (ax,) = style.figure(7, 4)
    for place, log_rate in enumerate(log_rates):
        ax.plot(
            np.exp(log_rate),
            color=style.GREY,
            linewidth=0.8,
            label="rounds between" if place == 1 else None,
        )
    ax.plot(np.exp(log_rates[0]), color=style.BLACK, linestyle="--", label="start")
    ax.plot(np.exp(log_rates[best]), color=style.BLUE, linewidth=2, label=f"learned (round {best})")
    ax.axhline(
        constant,
        color=style.ORANGE,
        linestyle=":",
        label=f"best constant rate of a grid: {constant:.2g}",
    )
    ax.set(
        xlabel="training step",
        ylabel="learning rate",
        yscale="log",
        title="The learning-rate schedule, learned step by step",
    )
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure
