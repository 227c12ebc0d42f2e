"""Chapter: how much the end of the run still depends on its beginning.

It prints the metagradient of the initial parameters, layer by layer.
"""

import jax

from metagrad.demo import agreement, report


def run(out, metagradients):
    """Returns {"norm": {leaf path: norm}}."""
    report.heading(out, "Initial parameters")
    norms = {
        jax.tree_util.keystr(path, simple=True, separator="."): agreement.norm(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(metagradients.initial)
    }
    table = report.table("layer", "norm of its metagradient")
    for layer, norm in norms.items():
        table.add_row(layer, f"{norm:.5f}")
    report.show(out, table)
    return {"norm": norms}
