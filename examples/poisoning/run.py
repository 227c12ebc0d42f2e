"""How far can 2.5% of the training images lower the accuracy of a digit classifier?

python -m examples.poisoning --seeds 3         # goes on from results.json, if it is there
python -m examples.poisoning --draw            # only the picture, from results.json
"""

import argparse
import functools
import json
import pathlib
import time

import numpy as np

HERE = pathlib.Path(__file__).parent
ATTACKS = (
    "random noise",
    "flipped labels",
    "gradient cancelling",
    "metagradient descent",
    "descent over trainings",
)
TIMES = 3
"""So many times the rounds for descent over trainings, which has a new one in each."""

VICTIMS = {
    "attacked": "the training that was attacked",
    "fresh": "the same routine from other initial parameters, in another order",
    "rough": "another routine, that is not smooth",
}
"""Who is judged. "attacked" is one training, the others are means over several."""


def judge(routines, seed, trainings, images, label=None):
    """{victim: [held-out, test] accuracy in percent} of training on these images."""
    from examples.poisoning.attacks import FRESH

    smooth, rough = routines
    unseen = range(FRESH, FRESH + trainings)
    return {
        "attacked": smooth.accuracies(images, [seed], label),
        "fresh": smooth.accuracies(images, unseen, label),
        "rough": rough.accuracies(images, unseen, label),
    }


def attack(name, routines, seed, options):
    """One attack with one choice of images: {victim: [held-out, test] accuracy, ...}."""
    from examples.poisoning import attacks
    from metagrad.applications import poisoning

    attacked, _ = routines
    examples = attacks.chosen(seed)
    box = poisoning.Box.of(attacked.clean, examples)
    of = functools.partial(judge, routines, seed, options.trainings)
    if name == "none":
        return of(attacked.clean)
    if name == "random noise":
        return of(poisoning.random_noise(attacked.clean, box, seed))
    if name == "flipped labels":
        label = poisoning.flip_labels(attacked.data.train.label, examples, 10, seed)
        return of(attacked.clean, label)
    begun = time.perf_counter()
    if name == "gradient cancelling":
        _, distance, images, norms = attacks.by_cancelling(attacked, box, seed, options.steps)
        about = {"distance": distance, "gradient norms": norms}
    else:
        if name == "metagradient descent":
            images, losses = attacks.by_descent(attacked, examples, options.rounds, seed)
        else:
            rounds = TIMES * options.rounds
            images, losses = attacks.by_descent_over_trainings(attacked, examples, rounds, seed)
        some = lambda data: np.asarray(data["image"])[box.examples[:8]].round(3).tolist()
        about = {
            "losses": losses.tolist(),
            "images": some(images),
            "clean images": some(attacked.clean),
        }
    return of(images) | about | {"seconds": time.perf_counter() - begun}


def drops(results, victim):
    """{attack: the fall of the test accuracy in points, one for each seed}."""
    fall = lambda run, name: run["none"][victim][1] - run[name][victim][1]
    runs = results["runs"].values()
    return {name: np.array([fall(run, name) for run in runs]) for name in ATTACKS}


def report(results):
    lines = []
    for victim, words in VICTIMS.items():
        clean = np.mean([run["none"][victim][1] for run in results["runs"].values()])
        lines.append(f"{victim} ({words}): {clean:.1f}% test accuracy unpoisoned")
        for name, points in drops(results, victim).items():
            spread = points.std(ddof=1) if len(points) > 1 else float("nan")
            each = ", ".join(f"{-point:+.1f}" for point in points)
            lines.append(f"  {name:<22}{-points.mean():+7.2f} points +- {spread:.2f}  ({each})")
    return "\n".join(lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m examples.poisoning", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="choices of poisoned images")
    parser.add_argument("--rounds", type=int, default=40, help="rounds of metagradient descent")
    parser.add_argument("--steps", type=int, default=300, help="steps of gradient cancelling")
    parser.add_argument("--trainings", type=int, default=5, help="fresh trainings that judge")
    parser.add_argument("--draw", action="store_true", help="only draw results.json again")
    parser.add_argument("--out", type=pathlib.Path, default=HERE, help="folder of the results")
    options = parser.parse_args(arguments)
    path = options.out / "results.json"
    if not options.draw:
        measure(options, path)
    results = json.loads(path.read_text())
    print(report(results))
    from examples.poisoning import picture

    picture.draw(results, {victim: drops(results, victim) for victim in VICTIMS}).savefig(
        options.out / "poisoning.png"
    )


def measure(options, path):
    """Fills results.json, which is written anew after each attack. What is there is kept."""
    from examples.poisoning import attacks

    results = json.loads(path.read_text()) if path.exists() else {"runs": {}}
    results["command"] = (
        f"python -m examples.poisoning --seeds {options.seeds} --rounds {options.rounds} "
        f"--steps {options.steps} --trainings {options.trainings}"
    )
    routines = attacks.Victim(attacks.SMOOTH), attacks.Victim(attacks.ROUGH)
    for seed in range(options.seeds):
        run = results["runs"].setdefault(str(seed), {})
        for name in ("none", *ATTACKS):
            if name not in run:
                run[name] = attack(name, routines, seed, options)
                path.write_text(json.dumps(results) + "\n")
                print(f"seed {seed}, {name}: {run[name]['attacked'][1]:.1f}%", flush=True)


if __name__ == "__main__":
    main()
