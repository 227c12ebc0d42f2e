"""The picture: the schedules, and what each reaches for its price."""

import numpy as np

COLOURS = {
    "learned": "C3",
    "grid at 20 times the cost": "C0",
    "grid at equal cost": "C9",
    "best constant": "0.5",
}


def draw(studies, path):
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for name, colour in COLOURS.items():
        for number, each in enumerate(studies):
            label = None if number else name
            left.semilogy(each[name]["rates"], color=colour, lw=1, label=label)
    left.set_xlabel("step")
    left.set_ylabel("learning rate")
    left.set_ylim(1e-3, None)
    left.legend(fontsize=7)
    for name in studies[0]:
        if name == "flat start":
            continue
        price = [each[name]["price"] for each in studies]
        loss = [each[name]["validation loss"] for each in studies]
        right.plot(price, loss, ".", color=COLOURS.get(name, "C2"), alpha=0.5)
        right.plot(np.mean(price), np.mean(loss), "o", color=COLOURS.get(name, "C2"))
        offset = (5, -9) if name in ("mechanize", "grid at equal cost") else (5, 3)
        place = np.mean(price), np.mean(loss)
        right.annotate(name, place, offset, textcoords="offset points", fontsize=7)
    right.set_xscale("log")
    right.set_xlim(0.6, 1e5)
    right.set_yscale("log")
    right.set_xlabel("price, in plain training runs")
    right.set_ylabel("validation loss on fresh runs")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
