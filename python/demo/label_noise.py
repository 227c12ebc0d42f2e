"""Wrong labels: how they are planted. `metagrad.applications.label_cleaning` finds them.

The noise is systematic, as a careless annotator's would be: about half of the 3s are labelled 8,
and half of the 9s are labelled 4. A network learns such an error as if it were the truth. So the
loss of an example on its own label, the usual way to find label noise, says little about it. What
an example does to the loss on clean validation data says more, and that is its metagradient.
"""

import numpy as np

FRACTION = 0.1
MISTAKEN_FOR = {3: 8, 9: 4}


def plant(examples, seed, fraction=FRACTION):
    """Plants fraction * n wrong labels.

    Returns (the examples with the wrong labels, a mask bool [n] of where they are).
    """
    random = np.random.default_rng([seed, 2])
    candidates = np.flatnonzero(np.isin(examples.label, list(MISTAKEN_FOR)))
    wrong = np.zeros(len(examples.label), bool)
    wrong[random.choice(candidates, round(fraction * len(wrong)), replace=False)] = True
    label = examples.label.copy()
    for truth, mistake in MISTAKEN_FOR.items():
        label[wrong & (examples.label == truth)] = mistake
    return examples._replace(label=label), wrong
