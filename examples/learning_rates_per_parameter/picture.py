"""The picture: the layers' rates, and the held-out loss of the descents."""

COLOURS = {"a rate for each layer": "C0", "a rate for each parameter": "C3"}


def draw(studies, path):
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for name, colour in COLOURS.items():
        for number, each in enumerate(studies):
            label = None if number else name
            left.plot(each[name]["values of the rounds"], color=colour, lw=1, label=label)
            rates = each[name]["rates"]
            right.semilogy(list(rates.values()), ".", color=colour, label=label)
    left.set_xlabel("round of the descent")
    left.set_ylabel("held-out loss")
    left.legend(fontsize=7)
    for number, each in enumerate(studies):
        label = None if number else "one rate, searched"
        right.axhline(each["one rate, searched"]["rate"], color="0.6", lw=0.8, label=label)
    right.set_xticks(range(len(rates)), rates, rotation=70, fontsize=7)
    right.set_ylabel("learning rate (mean of the logarithm)")
    right.legend(fontsize=7)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
