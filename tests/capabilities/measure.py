"""Runs comparisons in processes of their own, and says in one word how each case came out."""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PROGRAM = HERE / "enzyme_against_jax.py"

REVERSE, FORWARD, REVERSE_AGAIN = "reverse", "forward over reverse", "reverse over reverse"
# From best to worst.
EXACT, NAN, DIFFERS, FAILS = "exact", "NaN at infinity", "differs", "fails"
VERDICTS = (EXACT, NAN, DIFFERS, FAILS)


def compare(pairs, *options):
    """Runs the (case, dtype) pairs in one process.

    If Enzyme takes it down, each half gets a process of its own, until the case has a name.
    """
    done = subprocess.run(
        [sys.executable, PROGRAM, *options],
        input=json.dumps(pairs),
        capture_output=True,
        text=True,
        cwd=HERE,
    )
    if done.returncode == 0:
        return json.loads(done.stdout)
    if len(pairs) > 1:
        half = len(pairs) // 2
        return compare(pairs[:half], *options) + compare(pairs[half:], *options)
    ((name, dtype),) = pairs
    last = done.stderr.strip().splitlines()[-5:]
    return [
        {
            "case": name,
            "dtype": dtype,
            "differences": [{"kind": FAILS, "what": "reverse", "first": last}],
        }
    ]


def verdict(differences) -> str:
    kinds = {d["kind"] for d in differences}
    return (
        FAILS
        if FAILS in kinds
        else DIFFERS
        if "differs" in kinds
        else NAN
        if "nan at infinity" in kinds
        else EXACT
    )


def verdicts(result, orders) -> dict[str, str]:
    """Of one comparison, in reverse mode and, if it has two orders, in forward over reverse."""
    first = [d for d in result["differences"] if not d["what"].startswith("forward")]
    second = [
        d for d in result["differences"] if d["what"].startswith("forward") or d["kind"] == FAILS
    ]
    return {REVERSE: verdict(first)} | ({FORWARD: verdict(second)} if orders == 2 else {})


def has_edges(case) -> bool:
    """Whether the type changes what happens: where numbers overflow.

    Of these float32 is compared as well.
    """
    return case.elementwise or case.proves in (("models",), ("special",))


def measure(cases, together=24) -> dict:
    """What the page shows: case -> dtype -> mode -> verdict."""
    verdicts_of: dict = {}
    for dtype in ("float64", "float32"):
        names = [name for name, case in cases.items() if dtype == "float64" or has_edges(case)]
        for options in ((), ("--reverse-over-reverse",)):
            asked = [name for name in names if not options or cases[name].orders == 2]
            for start in range(0, len(asked), together):
                for result in compare(
                    [(name, dtype) for name in asked[start : start + together]], *options
                ):
                    verdicts_of.setdefault(result["case"], {}).setdefault(dtype, {}).update(
                        {REVERSE_AGAIN: verdict(result["differences"])}
                        if options
                        else verdicts(result, cases[result["case"]].orders)
                    )
                print(
                    dtype,
                    *options,
                    f"{min(start + together, len(asked))} of {len(asked)}",
                    file=sys.stderr,
                    flush=True,
                )
    return verdicts_of
