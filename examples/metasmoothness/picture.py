"""The picture: smoothness against gain, and the landscapes of two routines."""

import jax.numpy as jnp
import numpy as np

import metagrad

REACH, POINTS = 0.3, 11


def landscape_of(problem):
    """The held-out loss over the descent's direction and a random one, as lists of numbers."""
    state0, batches, *held_out = problem.arguments
    gradient = problem.metagradient(state0, problem.images, batches, *held_out).grad
    u = {"image": problem.mask * -jnp.sign(gradient["image"])}
    (v,) = problem.directions(1, 7)
    seen = metagrad.smoothness.landscape(
        lambda images: problem.outcomes(images)[0],
        problem.images,
        u,
        v,
        reach=REACH,
        points_per_axis=POINTS,
    )
    return {
        "a": seen.a.tolist(),
        "b": seen.b.tolist(),
        "values": seen.values.tolist(),
        "roughness": seen.roughness,
    }


def draw(rows, correlation, landscapes):
    """The matplotlib figure.

    Args:
      rows: routine -> {"metasmoothness", "over random", ...}.
      correlation: (rho, (low, high)).
      landscapes: routine -> what `landscape_of` returned.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), dpi=100, layout="constrained")
    scatter, *others = figure.subplots(1, 3)
    _scatter(scatter, rows, correlation)
    for ax, (name, numbers) in zip(others, landscapes.items()):
        arrays = (np.array(numbers[key]) for key in ("a", "b", "values"))
        labels = ("step along the metagradient's signs", "step along random signs", "held-out loss")
        metagrad.smoothness.Landscape(*arrays).draw(ax, labels)
        ax.set_title(f"{name}: roughness {numbers['roughness']:.2f}", fontsize=10)
    return figure


def _scatter(ax, rows, correlation):
    for base, colour in (("smooth", "#0072b2"), ("rough", "#d55e00")):
        chosen = [row for name, row in rows.items() if name.startswith(base)]
        ax.scatter(
            [row["metasmoothness"] for row in chosen],
            [row["over random"] for row in chosen],
            color=colour,
            s=22,
            label=f"{base}, or one change from it",
        )
    rho, (low, high) = correlation
    ax.set_title(f"rank correlation {rho:.2f} ({low:.2f} to {high:.2f})", fontsize=10)
    ax.set(xlabel="metasmoothness", ylabel="log loss gained over random steps")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="center")
