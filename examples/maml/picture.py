"""The picture: what adaptation reaches, step by step."""

import numpy as np

COLOURS = {"MAML": "C3", "first-order MAML": "C1", "pretrained": "C0", "from scratch": "0.5"}


def draw(studies, path):
    from matplotlib import pyplot

    panels = [(family, shots) for family, counts in studies[0].items() for shots in counts]
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(12, 3), layout="constrained", squeeze=False
    )
    for axis, (family, shots) in zip(axes[0], panels, strict=True):
        for name in studies[0][family][shots]:
            curves = np.array([each[family][shots][name]["curve"] for each in studies])
            for curve in curves:
                axis.plot(curve, color=COLOURS[name], lw=0.5, alpha=0.5)
            axis.plot(curves.mean(0), color=COLOURS[name], label=name)
        axis.set_title(f"{family}, {shots} shots", fontsize=9)
        axis.set_xlabel("steps of SGD on the new task")
        axis.set_ylabel("mean squared error" if family == "sinusoids" else "error")
        if family == "sinusoids":
            axis.set_ylim(0, 5)
    axes[0, 0].legend(fontsize=7)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
