"""The picture: precision and test loss of each contender, a dot for each split of the data."""

import numpy as np


def draw(studies, path):
    from matplotlib import pyplot

    figure, rows = pyplot.subplots(
        len(studies), 2, figsize=(9, 2.8 * len(studies)), layout="constrained", squeeze=False
    )
    for (noise, of_noise), axes in zip(studies.items(), rows):
        names = list(of_noise[0])
        for ax, column in zip(axes, ("precision", "test loss")):
            for place, name in enumerate(names):
                numbers = [each[name][column] for each in of_noise]
                if numbers[0] is None:
                    continue
                colour = "C3" if name.startswith("metagradient") else "C0"
                ax.plot(numbers, np.full(len(numbers), place), ".", color=colour, alpha=0.5)
                ax.plot(np.mean(numbers), place, "o", color=colour)
            ax.set_yticks(range(len(names)), names if ax is axes[0] else [], fontsize=7)
            ax.set_ylim(len(names) - 0.5, -0.5)
            ax.set_xlabel(f"{column}, {noise} noise", fontsize=8)
            ax.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
