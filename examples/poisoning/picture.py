"""The picture: what each attack costs the victims, and what the poisoned images look like."""

import numpy as np

COLOURS = ("#b8b8b8", "#e69f00", "#009e73", "#0072b2", "#56b4e9")


def draw(results, drops):
    """The matplotlib figure.

    Args:
      results: what results.json holds.
      drops: victim -> attack -> fall of the test accuracy by seed, in points.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), dpi=100, layout="constrained")
    bars, images = figure.subplots(1, 2, width_ratios=(3, 2))
    _bars(bars, drops)
    run = results["runs"]["0"]["metagradient descent"]
    rows = [np.array(run["clean images"]), np.array(run["images"])]
    tiles = [np.hstack([np.pad(tile, 1, constant_values=1) for tile in row]) for row in rows]
    images.imshow(np.vstack(tiles), cmap="gray_r", vmin=0, vmax=1)
    images.set_title("eight of the images, before and after", fontsize=10)
    images.axis("off")
    return figure


def _bars(ax, drops):
    for i, of_attacks in enumerate(drops.values()):
        for j, (name, points) in enumerate(of_attacks.items()):
            x = i + 0.17 * (j - 2)
            label = name if i == 0 else None
            ax.bar(x, points.mean(), 0.15, color=COLOURS[j], label=label)
            ax.plot([x] * len(points), points, "k.", markersize=4)
    ax.set_xticks(range(len(drops)), list(drops))
    ax.set_ylabel("fall of the test accuracy, points")
    ax.axhline(0, color="black", linewidth=0.5)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)
