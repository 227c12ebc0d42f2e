"""Measures the cases with the installed JAX and writes its page (docs/capabilities.md: the oldest).

`python -m tests.capabilities`, some minutes; with `--page`, the page alone; with names of cases,
these alone.
"""

import sys
from pathlib import Path

import jax

from metagrad.compiler.enzyme import library

sys.path.insert(0, str(Path(__file__).parent))
import measurements
import page
from cases import CASES
from measure import measure


def main(arguments):
    jax.config.update("jax_enable_x64", True)
    measured = measurements.of(jax.__version__) if arguments else {}
    chosen = {name: CASES[name] for name in (arguments or CASES) if name != "--page"}
    results = {name: result for name, result in measured.items() if name in CASES} | measure(chosen)
    measurements.record(jax.__version__, library.identity().split()[1], results)
    # What a page says of the other versions is in each of them.
    measurements.page(jax.__version__).write_text(page.page(jax.__version__, CASES))


if __name__ == "__main__":
    main(sys.argv[1:])
