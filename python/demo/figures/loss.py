"""Plot: the loss before and after.

On the left is the loss along the training run, on the right the loss by round of metagradient
descent.
"""

from metagrad.demo.figures import style


def draw(curves, rounds):
    """The figure.

    Args:
      curves: name -> (validation loss [T], test loss [T]), from the first to the last improvement.
      rounds: (validation loss, test loss) of each round.
    """
    figure, (run, descent) = style.figure(10, 4, 2)
    for (name, (validation, test)), colour in zip(
        curves.items(), (style.GREY, style.ORANGE, style.BLUE)
    ):
        step = range(1, len(validation) + 1)
        run.plot(step, validation, color=colour, label=f"{name}: {validation[-1]:.3f}")
        run.plot(step, test, color=colour, linestyle=":", linewidth=1)
    run.set(
        xlabel="training step",
        ylabel="loss",
        yscale="log",
        title="Along the training run (dotted: test)",
    )
    run.legend(title="validation loss at the end", frameon=False, fontsize=8)

    validation, test = zip(*rounds)
    descent.plot(
        validation, color=style.BLUE, marker="o", markersize=4, label="validation (descended on)"
    )
    descent.plot(
        test, color=style.BLACK, marker="o", markersize=3, linestyle=":", label="test (held out)"
    )
    descent.set(
        xlabel="round of metagradient descent on the schedule",
        ylabel="loss after training",
        title="By round",
    )
    descent.set_ylim(bottom=0)
    descent.legend(frameon=False, fontsize=8)
    return figure
