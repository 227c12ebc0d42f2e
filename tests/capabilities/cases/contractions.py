"""Contractions and windows."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .case import case, inf, normal

case("matmul", lambda x, y: x @ y, normal(3, 4), normal(4, 5), proves="dot_general", rounded=True)
case(
    "batched matmul",
    lambda x, y: jnp.einsum("bhqd,bhkd->bhqk", x, y),
    normal(2, 2, 3, 4),
    normal(2, 2, 5, 4),
    proves="dot_general",
    rounded=True,
)
case(
    "contract two axes",
    lambda x, y: jnp.einsum("abc,bcd->da", x, y),
    normal(2, 3, 4),
    normal(3, 4, 2),
    proves="dot_general",
    rounded=True,
)
case("outer", lambda x, y: jnp.outer(x, y) ** 2, normal(3), normal(4), proves="dot_general mul")
case("matmul with itself", lambda x: x @ x.T, normal(3, 4), proves="dot_general", rounded=True)
case(
    "matmul infinite",
    lambda x, y: jnp.exp(x) @ y,
    np.array([[0.0, -inf], [1.0, 2.0]]),
    normal(2, 2),
    proves="dot_general",
    rounded=True,
)

for name, types in {
    "bf16 to f32": (jnp.bfloat16, jnp.bfloat16, jnp.float32),
    "bf16 by f32": (jnp.bfloat16, jnp.float32, None),
}.items():
    case(
        f"matmul {name}",
        lambda x, y, t=types: lax.dot(x.astype(t[0]), y.astype(t[1]), preferred_element_type=t[2]),
        normal(3, 4),
        normal(4, 5),
        proves="dot_general",
        rounded=True,
        loosen=1e9,
    )

IMAGE = normal(2, 7, 6, 4)
for label, channels, options in (
    ("plain", 4, {"window_strides": (1, 1), "padding": "SAME"}),
    ("strided", 4, {"window_strides": (2, 2), "padding": "VALID"}),
    ("strided same", 4, {"window_strides": (2, 1), "padding": "SAME"}),
    ("dilated", 4, {"window_strides": (1, 1), "padding": ((2, 1), (0, 2)), "rhs_dilation": (2, 1)}),
    (
        "transposed",
        4,
        {"window_strides": (1, 1), "padding": ((2, 2), (2, 2)), "lhs_dilation": (2, 2)},
    ),
    ("grouped", 2, {"window_strides": (1, 1), "padding": "SAME", "feature_group_count": 2}),
    ("depthwise", 1, {"window_strides": (2, 2), "padding": "SAME", "feature_group_count": 4}),
    ("negative padding", 4, {"window_strides": (1, 1), "padding": ((-1, 0), (1, 1))}),
):
    case(
        f"conv {label}",
        lambda x, k, o=options: lax.conv_general_dilated(
            x, k, dimension_numbers=("NHWC", "HWIO", "NHWC"), **o
        ),
        IMAGE,
        normal(3, 2, channels, 4),
        proves="conv_general_dilated",
        rounded=True,
    )
case(
    "conv bf16 to f32",
    lambda x, k: lax.conv_general_dilated(
        x.astype(jnp.bfloat16),
        k.astype(jnp.bfloat16),
        (1,),
        "SAME",
        preferred_element_type=jnp.float32,
    ),
    normal(2, 3, 6),
    normal(4, 3, 3),
    proves="conv_general_dilated",
    rounded=True,
    loosen=1e9,
)
case(
    "conv without results",
    lambda x, k: lax.conv_general_dilated(x, k, (1,), [(0, -1)]).sum() + jnp.sum(x * k),
    normal(1, 1, 3),
    normal(1, 1, 3),
    proves="conv_general_dilated",
)
case(
    "conv NCHW",
    lambda x, k: lax.conv(x, k, (1, 1), "SAME"),
    normal(2, 3, 5, 5),
    normal(4, 3, 3, 3),
    proves="conv_general_dilated",
    rounded=True,
)
case(
    "conv 1d",
    lambda x, k: lax.conv_general_dilated(x, k, (1,), "SAME"),
    normal(2, 3, 6),
    normal(4, 3, 3),
    proves="conv_general_dilated",
    rounded=True,
)
case(
    "conv batch groups",
    lambda x, k: lax.conv_general_dilated(x, k, (1,), "SAME", batch_group_count=2),
    normal(4, 3, 6),
    normal(4, 3, 3),
    proves="conv_general_dilated",
    rounded=True,
)

POOLED = np.round(normal(1, 6, 5, 2))  # rounded: ties within the windows
for label, dims, strides, padding in (
    ("2x2", (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
    ("3x3 same", (1, 3, 3, 1), (1, 2, 1, 1), "SAME"),
):
    for name, init, op in (("sum", 0.0, lax.add), ("max", -inf, lax.max), ("min", inf, lax.min)):
        case(
            f"pool {name} {label}",
            lambda x, a=(init, op, dims, strides, padding): lax.reduce_window(x, *a) ** 2,
            POOLED,
            proves=f"reduce_window_{name}",
            rounded=True,
        )
INFINITE = np.where(np.abs(POOLED) > 1, -inf, POOLED)
case(
    "pool max infinite",
    lambda x: lax.reduce_window(x, -inf, lax.max, (1, 3, 3, 1), (1, 2, 1, 1), "SAME"),
    INFINITE,
    proves="reduce_window_max",
    rounded=True,
)
WIDE = np.round(normal(1, 20, 23, 1))
for name, init, op in (("sum", 0.0, lax.add), ("max", -inf, lax.max), ("min", inf, lax.min)):
    case(
        f"pool {name} 9x11",
        lambda x, a=(init, op): lax.reduce_window(x, *a, (1, 9, 11, 1), (1, 2, 3, 1), "SAME") ** 2,
        WIDE,
        proves=f"reduce_window_{name}",
        rounded=True,
    )
    for label, dims, strides, padding in (
        ("2x2", (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
        ("3x3 same", (1, 3, 3, 1), (1, 2, 1, 1), "SAME"),
        ("9x11", (1, 9, 11, 1), (1, 2, 3, 1), "SAME"),
    ):
        if name != "sum":
            window = (init, op, dims, strides, padding)
            case(
                f"gradient of pool {name} {label}",
                lambda x, a=window: jax.grad(lambda x: jnp.sum(lax.reduce_window(x * x, *a) ** 3))(
                    x
                ),
                WIDE if label == "9x11" else POOLED,
                proves="select_and_scatter_add",
                rounded=True,
            )
            case(
                f"tangent of pool {name} {label}",
                lambda x, t, a=window: jax.jvp(lambda x: lax.reduce_window(x * x, *a), (x,), (t,))[
                    1
                ],
                WIDE if label == "9x11" else POOLED,
                normal(*(WIDE if label == "9x11" else POOLED).shape),
                proves="select_and_gather_add",
                rounded=True,
            )
case(
    "pool sum dilated",
    lambda x: (
        lax.reduce_window(
            x, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "VALID", (1, 2, 1, 1), (1, 2, 2, 1)
        )
        ** 2
    ),
    POOLED,
    proves="reduce_window_sum",
    rounded=True,
)

# Their values come from LAPACK, their derivatives are products.
PRODUCT = normal(4, 4)
case(
    "eigh", lambda x: jnp.linalg.eigh(x), PRODUCT @ PRODUCT.T + np.eye(4), rounded=True, loosen=1e3
)
case(
    "inverse fourth root",
    lambda x: (lambda w, v: (v * w**-0.25) @ v.T)(*jnp.linalg.eigh(x)),
    PRODUCT @ PRODUCT.T + np.eye(4),
    proves="eigh",
    rounded=True,
    loosen=1e3,
)
case(
    "svd", lambda x: jnp.linalg.svd(x, full_matrices=False), normal(4, 3), rounded=True, loosen=1e3
)
case(
    "nuclear norm",
    lambda x: jnp.linalg.norm(x, "nuc"),
    normal(4, 3),
    proves="svd",
    rounded=True,
    loosen=1e3,
)
