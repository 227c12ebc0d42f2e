"""The picture of the README: recall, what is trained on, and how the counts move."""

import numpy as np

from examples.data_selection_contrastive import run

KIND_COLOURS = ("#2b8a3e", "#c92a2a", "#1c7ed6", "#868e96")


def save(results, path):
    """Draws `results`, as in results.json, into a PNG."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    found = run.summary(results["seeds"])
    names = sorted(found, key=lambda name: found[name]["alone"].mean())
    draw_recalls(axes[0], found, names)
    draw_shares(axes[1], results, names)
    draw_counts(axes[2], results)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def draw_recalls(ax, found, names):
    """Bars of the mean over seeds and directions, and a dot for each seed."""
    means = [found[name]["alone"].mean() for name in names]
    colours = ["#e8590c" if name == run.OURS else "#ced4da" for name in names]
    ax.barh(names, means, color=colours)
    for place, name in enumerate(names):
        by_seed = found[name]["alone"].mean(1)
        ax.plot(by_seed, np.full(len(by_seed), place), "k.", markersize=4)
    ax.set(xlabel="recall@1 on the test set, points", title="Retrieval")


def draw_shares(ax, results, names):
    """Which share of the training draws each kind of pair has."""
    for place, name in enumerate(names):
        rows = [seed["rows"][name] for seed in results["seeds"]]
        if "shares" not in rows[0]:
            continue
        shares, left = np.mean([row["shares"] for row in rows], 0), 0.0
        for share, colour in zip(shares, KIND_COLOURS):
            ax.barh(place, share, left=left, color=colour)
            left += share
    ax.set(ylim=(-0.6, len(names) - 0.4), yticks=[], xlabel="share of what is trained on")
    ax.set_title("What is selected")


def draw_counts(ax, results):
    """The mean count of each kind over the rounds."""
    paths = np.array([seed["mean_counts"] for seed in results["seeds"]])
    rounds = np.arange(1, paths.shape[1] + 1)
    for kind, colour in enumerate(KIND_COLOURS):
        ax.plot(rounds, paths[:, :, kind].mean(0), color=colour, label=results["kinds"][kind])
        ax.fill_between(
            rounds, paths[:, :, kind].min(0), paths[:, :, kind].max(0), color=colour, alpha=0.2
        )
    ax.set(xlabel="round", ylabel="mean count", title="Counts in the descent")
    ax.legend(frameon=False, fontsize=8)
