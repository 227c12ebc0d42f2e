"""Gathers and scatters: repeated indices, negative ones, out of bounds."""

import jax
import jax.numpy as jnp
import numpy as np

from .case import case, inf, normal

TABLE = normal(5, 3)
for label, rows in {
    "plain": [0, 3],
    "repeated": [2, 2, 2, 1],
    "negative": [-1, 0],
    "outside": [1, 7, -9],
}.items():
    rows = np.int32(rows)
    U = normal(len(rows), 3)
    distinct = label != "repeated"
    for mode in ("fill", "clip"):
        case(
            f"take {label} {mode}",
            lambda x, i, mode=mode: jnp.take(x * x, i, 0, mode=mode) ** 2,
            TABLE,
            rows,
            proves="gather",
        )
        case(
            f"at add {label} {mode}",
            lambda x, u, i, mode=mode: (x * x).at[i].add(u * u, mode=mode) ** 2,
            TABLE,
            U,
            rows,
            proves="scatter-add",
        )
        if distinct and (label, mode) != ("outside", "clip"):
            case(
                f"at set {label} {mode}",
                lambda x, u, i, mode=mode: (
                    (x * x).at[i].set(u * u, mode=mode, unique_indices=True) ** 2
                ),
                TABLE,
                U,
                rows,
                proves="scatter",
            )
case(
    "gather promised",
    lambda x, i: x.at[i].get(mode="promise_in_bounds") ** 2,
    TABLE,
    np.int32([2, 2, 1]),
    proves="gather",
)
case("index", lambda x, i: x[i] ** 2, TABLE, np.int32([[0, 1], [4, 4]]), proves="gather")
case("index two axes", lambda x, i: x[i, i % 3] ** 2, TABLE, np.int32([0, 4, 4]), proves="gather")
case(
    "at add constant",
    lambda u, i: jnp.zeros((5, 3), u.dtype).at[i].add(u * u) ** 2,
    normal(3, 3),
    np.int32([1, 1, 4]),
    proves="scatter-add",
)
case(
    "at set constant",
    lambda x, i: (x * x).at[i].set(0.0) ** 2,
    TABLE,
    np.int32([1, 4]),
    proves="scatter",
)
case(
    "at set unique",
    lambda x, u, i: (x * x).at[i].set(u * u, unique_indices=True) ** 2,
    TABLE,
    normal(2, 3),
    np.int32([1, 4]),
    proves="scatter",
)
case(
    "at add two axes",
    lambda x, u, i: x.at[i, i % 3].add(u * u) ** 2,
    TABLE,
    normal(3),
    np.int32([0, 4, 4]),
    proves="scatter-add",
)
for label, rows in {
    "repeated": [2, 2, 2, 1],
    "distinct": [0, 3, 4, 1],
    "outside": [1, 7, -9, 1],
}.items():
    rows = np.int32(rows)
    U = normal(4, 3)
    case(
        f"at set {label} not promised",
        lambda x, u, i: (x * x).at[i].set(u * u) ** 2,
        TABLE,
        U,
        rows,
        proves="scatter",
    )
    case(
        f"at max {label}",
        lambda x, u, i: (x * x).at[i].max(u * u) ** 2,
        TABLE,
        U,
        rows,
        proves="scatter-max",
    )
    case(
        f"at min {label}",
        lambda x, u, i: (x * x).at[i].min(u * u) ** 2,
        TABLE,
        U,
        rows,
        proves="scatter-min",
    )
    case(
        f"at subtract {label}",
        lambda x, u, i: x.at[i].subtract(u * u) ** 2,
        TABLE,
        U,
        rows,
        proves="scatter-sub",
    )
    if label == "distinct":
        case(
            "at multiply",
            lambda x, u, i: (x * x).at[i].multiply(u * u, unique_indices=True) ** 2,
            TABLE,
            U,
            rows,
            proves="scatter-mul",
        )
case(
    "at multiply by constants",
    lambda x, i: (x * x).at[i].multiply(jnp.full((3, 3), 2.5, x.dtype), unique_indices=True) ** 2,
    TABLE,
    np.int32([1, 2, 7]),
    proves="scatter-mul",
)
for method in ("min", "max"):
    case(
        f"at {method} one index",
        lambda x, u, method=method: getattr((x * x).at[2], method)(u * u) ** 2,
        TABLE,
        normal(3),
        proves=f"scatter-{method}",
    )
    case(
        f"at {method} promised",
        lambda x, u, i, method=method: (
            getattr((x * x).at[i], method)(u * u, unique_indices=True, indices_are_sorted=True) ** 2
        ),
        TABLE,
        normal(2, 3),
        np.int32([1, 4]),
        proves=f"scatter-{method}",
    )
case(
    "at max tie",
    lambda x, u, i: x.at[i].max(u),
    np.array([1.0, 2.0, 0.0]),
    np.array([1.0, 1.0, 5.0]),
    np.int32([0, 0, 2]),
    proves="scatter-max",
)
case(
    "take_along_axis",
    lambda x, i: jnp.take_along_axis(x, i, 1) ** 2,
    TABLE,
    np.int32([[0], [2], [1], [1], [0]]),
    proves="gather",
)
case(
    "gather infinite",
    lambda x, i: jnp.exp(jnp.take(x, i, 0)),
    np.array([0.0, -inf, 1.0]),
    np.int32([1, 1, 0]),
    proves="gather",
)
case(
    "one_hot",
    lambda x, i: jax.nn.one_hot(i, 3, dtype=x.dtype) @ x,
    TABLE[:3],
    np.int32([2, 0]),
    proves="dot_general",
)
