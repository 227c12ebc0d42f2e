"""What was measured, by version of JAX. measured.json holds all results of the oldest version, and
those of the others that differ from it.

{"enzyme-ad": "0.0.16",
 "jax": {"0.10.2": {case: {dtype: {mode: verdict}}},
         "0.12.0.1": {case: {dtype: {mode: verdict}}, case that this JAX has not: null}}}
"""

import json
from pathlib import Path

FILE = Path(__file__).parent / "measured.json"
DOCS = Path(__file__).parents[2] / "docs"


def versions() -> list[str]:
    """The versions of JAX, oldest first."""
    return list(_read()["jax"])


def enzyme() -> str:
    """The version of Enzyme."""
    return _read()["enzyme-ad"]


def of(version: str) -> dict:
    """case -> dtype -> mode -> verdict; empty for a version that was not measured."""
    by_version = _read()["jax"]
    if version not in by_version:
        return {}
    (oldest, *_) = by_version.values()
    both = oldest | by_version[version]
    return {case: result for case, result in sorted(both.items()) if result is not None}


def record(version: str, enzyme_version: str, results: dict) -> None:
    """Writes down the results of all cases with one version of JAX."""
    everything = {measured: of(measured) for measured in versions()} | {version: results}
    oldest, *others = sorted(everything, key=lambda v: [int(part) for part in v.split(".")])
    base = everything[oldest]
    by_version = {oldest: dict(sorted(base.items()))}
    for other in others:
        by_version[other] = _difference(everything[other], base)
    text = json.dumps({"enzyme-ad": enzyme_version, "jax": by_version}, indent=0)
    FILE.write_text(text + "\n")


def _difference(results: dict, base: dict) -> dict:
    new = {case: result for case, result in results.items() if base.get(case) != result}
    return dict(sorted((new | dict.fromkeys(base.keys() - results.keys())).items()))


def _read() -> dict:
    return json.loads(FILE.read_text())


def page(version: str) -> Path:
    """The page for a version: docs/capabilities.md for the oldest."""
    suffix = "" if version == versions()[0] else f"_jax_{version}"
    return DOCS / f"capabilities{suffix}.md"
