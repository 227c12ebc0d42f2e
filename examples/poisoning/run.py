"""How far can 2.5% of the training images lower the accuracy of a digit classifier?

python -m examples.poisoning --seeds 3         # goes on from results.json, if it is there
python -m examples.poisoning --draw            # only the picture, from results.json
"""

import argparse
import json
import pathlib
import time

import numpy as np

HERE = pathlib.Path(__file__).parent
ATTACKS = ("random noise", "flipped labels", "gradient cancelling", "metagradient descent")
VICTIMS = {"smooth": "the routine that was attacked", "rough": "another, that is not smooth"}


def attack_all(victims, seed, options):
    """{attack: {victim: [held-out, test] accuracy, "seconds", ...}} of one choice of images."""
    from examples.poisoning import attacks
    from metagrad.applications import poisoning

    attacked = victims["smooth"]
    examples = attacks.chosen(seed)
    box = poisoning.Box.of(attacked.clean, examples)
    judge = lambda images, label=None: {
        name: victim.accuracies(images, label, options.trainings)
        for name, victim in victims.items()
    }
    results = {
        "random noise": judge(poisoning.random_noise(attacked.clean, box, seed)),
        "flipped labels": judge(
            attacked.clean,
            poisoning.flip_labels(attacked.data.train.label, examples, 10, seed),
        ),
    }
    begun = time.perf_counter()
    _, distance, images, norms = attacks.by_cancelling(attacked, box, seed, options.steps)
    results["gradient cancelling"] = judge(images) | {
        "distance": distance,
        "gradient norms": norms,
        "seconds": time.perf_counter() - begun,
    }
    begun = time.perf_counter()
    poisoned = attacks.by_descent(attacked, examples, options.rounds, seed)
    seconds = time.perf_counter() - begun
    images = poisoned.descent.meta
    results["metagradient descent"] = judge(images) | {
        "losses": poisoned.losses.tolist(),
        "seconds": seconds,
        "images": np.asarray(images["image"])[box.examples[:8]].round(3).tolist(),
        "clean images": np.asarray(attacked.clean["image"])[box.examples[:8]].round(3).tolist(),
    }
    return results


def drops(results, victim):
    """{attack: the fall of the test accuracy in points, one for each seed}."""
    clean = results["clean"][victim][1]
    return {
        name: np.array([clean - run[name][victim][1] for run in results["runs"].values()])
        for name in ATTACKS
    }


def report(results):
    lines = []
    for victim, words in VICTIMS.items():
        lines.append(
            f"{victim} ({words}): {results['clean'][victim][1]:.1f}% test accuracy unpoisoned"
        )
        for name, points in drops(results, victim).items():
            spread = points.std(ddof=1) if len(points) > 1 else float("nan")
            each = ", ".join(f"{point:.1f}" for point in points)
            lines.append(f"  {name:<22} -{points.mean():5.2f} points +- {spread:.2f}  ({each})")
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
    """Fills results.json, which is written anew after each seed. What is there is kept."""
    from examples.poisoning import attacks

    results = json.loads(path.read_text()) if path.exists() else {"runs": {}}
    results["command"] = (
        f"python -m examples.poisoning --seeds {options.seeds} --rounds {options.rounds} "
        f"--steps {options.steps} --trainings {options.trainings}"
    )
    victims = {
        "smooth": attacks.Victim(attacks.SMOOTH),
        "rough": attacks.Victim(attacks.ROUGH),
    }
    if "clean" not in results:
        results["clean"] = {
            name: victim.accuracies(victim.clean, trainings=options.trainings)
            for name, victim in victims.items()
        }
    for seed in range(options.seeds):
        if str(seed) not in results["runs"]:
            results["runs"][str(seed)] = attack_all(victims, seed, options)
            path.write_text(json.dumps(results) + "\n")
            print(f"seed {seed} done", flush=True)
    path.write_text(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
