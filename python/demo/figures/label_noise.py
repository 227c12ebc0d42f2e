"""Plot: what the metagradient of the example weights says about wrong labels.

It shows the metagradient's distribution, its precision, and the first suspects.
"""

import numpy as np

from metagrad.applications.label_cleaning import suspects
from metagrad.demo.figures import style

GALLERY = 4, 5


def draw(metagradient, training_loss, wrong, examples, truth):
    """The figure.

    Args:
      metagradient, training_loss: a score per example, [n].
      wrong: the mask of planted errors, [n].
      examples: the training examples, with the wrong labels.
      truth: the labels without the planted errors, [n].
    """
    figure, (histogram, curve, gallery) = style.figure(13, 4, 3)
    bins = np.histogram_bin_edges(metagradient, 60)
    histogram.hist(
        metagradient[~wrong],
        bins,
        color=style.BLUE,
        alpha=0.7,
        label=f"right label ({(~wrong).sum()})",
    )
    histogram.hist(
        metagradient[wrong],
        bins,
        color=style.RED,
        alpha=0.7,
        label=f"planted wrong label ({wrong.sum()})",
    )
    histogram.set(
        xlabel="metagradient of the example's weight",
        ylabel="examples",
        yscale="log",
        title="More weight on a wrong label: more loss",
    )
    histogram.legend(frameon=False, fontsize=8)

    planted = int(wrong.sum())
    counts = np.arange(1, 2 * planted + 1)
    for name, score, colour in (
        ("metagradient", metagradient, style.BLUE),
        ("loss on its own label", training_loss, style.ORANGE),
    ):
        curve.plot(
            counts,
            np.cumsum(wrong[suspects(score, len(counts))]) / counts,
            color=colour,
            label=name,
        )
    curve.axhline(wrong.mean(), color=style.GREY, linestyle="--", label="chance")
    curve.axvline(planted, color=style.GREY, linestyle=":", label="as many as planted")
    curve.set(
        xlabel="suspects taken", ylabel="share that is planted", ylim=(0, 1.03), title="Precision"
    )
    curve.legend(frameon=False, fontsize=8)

    rows, columns = GALLERY
    gallery.axis("off")
    gallery.set_title("First suspects: label (true digit)")
    for place, example in enumerate(suspects(metagradient, rows * columns)):
        row, column = divmod(place, columns)
        cell = gallery.inset_axes(
            (column / columns, 1 - (row + 1) / rows, 0.9 / columns, 0.75 / rows)
        )
        cell.imshow(examples.image[example].reshape(8, 8), cmap="gray_r")
        cell.set_title(
            f"{examples.label[example]} ({truth[example]})",
            fontsize=8,
            pad=2,
            color=style.RED if wrong[example] else style.BLACK,
        )
        cell.set(xticks=(), yticks=())
    return figure
