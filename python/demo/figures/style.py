"""What the plots share: colours and axes.

The colours stay apart for colour-blind readers (Okabe and Ito 2008).
"""

from matplotlib.figure import Figure

BLACK, GREY, BLUE, ORANGE, GREEN, RED = (
    "#222222",
    "#b8b8b8",
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
)


def figure(width, height, columns=1, **ratios):
    """A figure with a row of axes.

    It is matplotlib's Figure and not pyplot, which has global state and a backend to choose.
    """
    new_figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = new_figure.subplots(1, columns, squeeze=False, gridspec_kw=ratios or None)[0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return new_figure, axes
