"""Measures the cases and writes docs/capabilities.md: `python -m tests.capabilities`, some minutes; with `--page`, the page alone; with names of cases, these alone."""

import json
import sys
from pathlib import Path

import jax

from metagrad.compiler.enzyme import library

sys.path.insert(0, str(Path(__file__).parent))
import page  # noqa: E402
from cases import CASES  # noqa: E402
from measure import MEASURED, measure  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs" / "capabilities.md"


def main(arguments):
    jax.config.update("jax_enable_x64", True)
    known = json.loads(MEASURED.read_text())["cases"] if arguments else {}
    chosen = {name: CASES[name] for name in (arguments or CASES) if name != "--page"}
    found = {name: result for name, result in known.items() if name in CASES} | measure(chosen)
    versions = f"jax {jax.__version__} and enzyme-ad {library.identity().split()[1]}"
    MEASURED.write_text(
        json.dumps({"versions": versions, "cases": dict(sorted(found.items()))}, indent=0) + "\n"
    )
    PAGE.write_text(page.page(found, CASES, versions))


if __name__ == "__main__":
    main(sys.argv[1:])
