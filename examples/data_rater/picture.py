"""The picture: ratings by corruption, and what models reach that are trained on the best."""

import numpy as np

from examples.data_rater.text import LEVELS

COLOURS = {"uniform": "0.5", "low loss": "C0", "rated": "C3", "oracle": "C2"}


def draw(studies, path):
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    random = np.random.default_rng(0)
    for number, each in enumerate(studies):
        for level, ratings in zip(LEVELS, each["ratings"], strict=True):
            x = level + 0.03 * (number - 1) + 0.01 * random.standard_normal(len(ratings))
            left.plot(x, ratings, ".", color=f"C{number}", ms=2)
    left.set_xlabel("part of the characters that are replaced")
    left.set_ylabel("rating")
    for place, (name, colour) in enumerate(COLOURS.items()):
        losses = [each["held-out loss"][name] for each in studies]
        right.bar(place, np.mean(losses), color=colour, alpha=0.5)
        right.plot([place] * len(losses), losses, "k.", ms=4)
    right.set_xticks(range(len(COLOURS)), COLOURS)
    right.set_ylabel("test loss, nats per character")
    lowest = min(min(each["held-out loss"].values()) for each in studies)
    right.set_ylim(0.95 * lowest, None)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
