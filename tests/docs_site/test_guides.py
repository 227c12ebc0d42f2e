"""The programs of the guides run, and print what the guides show."""

from pathlib import Path

import jax
import pytest
from page_programs import are_alike, run

GUIDES = Path(__file__).parent.parent.parent / "docs" / "guides"


@pytest.mark.parametrize("page", sorted(GUIDES.glob("*.md")), ids=lambda page: page.stem)
def test_a_guide_prints_what_it_shows(page):
    assert jax.device_count() == 8, "the guide about several devices needs some"
    results = list(run(page))
    assert results, "a guide has programs"
    for printed, shown in results:
        assert are_alike(printed, shown), f"the page shows\n{shown}\nand it prints\n{printed}"


@pytest.mark.parametrize(
    "printed, shown, alike",
    [
        ("value 0.598 of 3\n", "value 0.597 of 3\n", True),
        ("value 0.598 of 3\n", "value 0.498 of 3\n", False),
        ("value 0.598\n", "value -0.598\n", False),
        ("True\n", "False\n", False),
        ("1 2\n", "1\n", False),
        ("", "True\n", False),
    ],
)
def test_what_is_alike(printed, shown, alike):
    assert are_alike(printed, shown) == alike
