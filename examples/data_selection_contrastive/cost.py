"""What a round of the descent costs, in training runs of the same length, by CPU time.

    python -m examples.data_selection_contrastive.cost

CPU time, because it is the same on a machine that does other things as well.
"""

import time

import numpy as np

from examples.data_selection_contrastive import contenders, data

ROUNDS, RUNS = 9, 10


def of_training(problem):
    """CPU seconds of one training run, and of its test."""
    run = lambda runs: contenders.recalls(
        problem.pool, np.ones(len(problem.kind)), problem.test, 0, runs
    )
    run(1)  # compiles
    began = time.process_time()
    run(RUNS)
    return (time.process_time() - began) / RUNS


def of_round(problem, late):
    """CPU seconds of one round, the median; the first, which compiles, is left out."""
    marks = []
    note = lambda: marks.append(time.process_time())
    contenders.by_metagradients(problem, 0, ROUNDS, late, note)
    return float(np.median(np.diff(marks)))


def main():
    problem = data.load(0)
    training = of_training(problem)
    print(f"a training run: {training:.3f} s of CPU time")
    for late in (contenders.LATE, (0.9,)):
        seconds = of_round(problem, late)
        print(
            f"a round, {len(late)} late steps: {seconds:.3f} s, {seconds / training:.1f} trainings"
        )


if __name__ == "__main__":
    main()
