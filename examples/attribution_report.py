"""What the examples of attribution share: tables over seeds, the picture, results.json."""

import numpy as np

from metagrad import attribution


def retrain(metagradient, run, queries, kept, count, seed):
    """Trainings on random subsets: {name: `attribution.Retrained`}, from one compiled program.

    Args:
      metagradient: of the run.
      run: (state0, meta, batches), with meta["weight"].
      queries: what the outer function takes.
      kept: {name: the part of the examples that a subset keeps}.
      count: how many subsets of each kind.
      seed: of the draw.
    """
    n = len(run[1]["weight"])
    subsets = [attribution.random_subsets(n, count, part, seed) for part in kept.values()]
    together = attribution.retrain(metagradient, *run, queries, subsets=np.concatenate(subsets))
    return {
        name: attribution.Retrained(
            each, together.outcomes[i * count : (i + 1) * count], together.full, together.seconds
        )
        for i, (name, each) in enumerate(zip(kept, subsets))
    }


def over_seeds(comparisons):
    """One row for each method: means over the seeds, and the lowest and highest.

    Args:
      comparisons: a `metagrad.attribution.Comparison` for each seed, of the same methods.

    Returns:
      {method: {"trainings": mean, subsets: {"lds": mean, "lowest", "highest", "interval"}}}; the
      interval is the mean of the ends of the seeds' intervals.
    """
    rows = zip(*(comparison.rows for comparison in comparisons))
    return {of_method[0].method: _over_seeds(of_method) for of_method in rows}


def _over_seeds(rows):
    merged = {"trainings": float(np.mean([row.trainings for row in rows]))}
    for name in rows[0].lds:
        values = [row.lds[name].value for row in rows]
        merged[name] = {
            "lds": float(np.mean(values)),
            "lowest": min(values),
            "highest": max(values),
            "interval": np.mean([row.lds[name].interval for row in rows], 0).tolist(),
            "slope": float(np.mean([row.slope[name] for row in rows])),
        }
    return merged


def table(merged):
    """As Markdown: a line for each method, a column for each kind of subsets."""
    names = [name for name in next(iter(merged.values())) if name != "trainings"]
    lines = [
        "| method | plain trainings | " + " | ".join(names) + " |",
        "| --- | ---: | " + " | ".join("---" for _ in names) + " |",
    ]
    for method, row in merged.items():
        cells = (
            "{lds:.3f} [{interval[0]:.2f}, {interval[1]:.2f}]".format(**row[name]) for name in names
        )
        lines.append(f"| {method} | {row['trainings']:.1f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def best_of(merged, prefix, name):
    """The method among those whose names start with `prefix` that has the best LDS."""
    alike = [method for method in merged if method.startswith(prefix)]
    return max(alike, key=lambda method: merged[method][name]["lds"])


def draw(panels, path):
    """A picture: for each panel (title -> rows), the LDS of each method over the kinds of subsets.

    Bars are the lowest and the highest seed.
    """
    from metagrad.demo.figures import style

    figure, axes = style.figure(5.5 * len(panels), 4.2, len(panels))
    colours = (style.BLUE, style.ORANGE, style.GREEN, style.RED, style.GREY, style.BLACK)
    for ax, (title, merged) in zip(axes, panels.items()):
        for colour, (method, row) in zip(colours, merged.items()):
            names = [name for name in row if name != "trainings"]
            values = np.array([[row[n][k] for n in names] for k in ("lds", "lowest", "highest")])
            label = f"{method} ({row['trainings']:.3g} trainings)"
            errors = np.abs(values[1:] - values[0])
            ax.errorbar(names, values[0], errors, color=colour, marker="o", capsize=3, label=label)
        ax.set(title=title, ylabel="LDS", ylim=(-0.1, 1.02))
        ax.axhline(0.95, color=style.GREY, linewidth=0.7, linestyle=":")
        ax.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    figure.savefig(path, dpi=90)
