"""The table of proven primitives and its evidence: for each case Enzyme gives what JAX gives."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metagrad.frontend.capabilities import CAPABILITIES, measured_with, overrides, unproven
from metagrad.frontend.jaxprs.interpret import equations

sys.path.insert(0, str(Path(__file__).parent))
import measurements
import page
from cases import CASES
from declined import DECLINED, X, clipped
from measure import DIFFERS, FAILS, VERDICTS, compare, has_edges, verdicts

# In bfloat16 sums round to anything up to a few percent; these cases are short enough to be
# compared.
SHORT = [
    n
    for n in CASES
    if n
    in {
        "matmul",
        "batched matmul",
        "softmax",
        "relu",
        "max 0",
        "reduce_max",
        "sqrt",
        "silu",
        "sort",
        "scan",
        "take plain fill",
        "conv strided",
        "pool max 2x2",
        "where 0",
        "clip",
        "pad",
        "cumsum 0",
        "mul",
        "add",
    }
]


def chunks(names, n, dtype):
    return [[(name, dtype) for name in names[i::n]] for i in range(n)]


# What the dtype changes is where things overflow: float32 is compared where edges are.
EDGED = [n for n, c in CASES.items() if has_edges(c)]
CHUNKS = [
    *chunks(list(CASES), 8, "float64"),
    *chunks(EDGED, 4, "float32"),
    *chunks(SHORT, 1, "bfloat16"),
]


@pytest.mark.parametrize(
    "pairs", CHUNKS, ids=lambda pairs: f"{pairs[0][1]}-{pairs[0][0].replace(' ', '_')}"
)
def test_enzyme_gives_what_jax_gives(pairs):
    results = compare(pairs)
    wrong = [
        f"{r['case']} ({r['dtype']}), {d['what']}: (index, Enzyme, JAX) = {d['first']}"
        for r in results
        for d in r["differences"]
        if d["kind"] in (DIFFERS, FAILS)
    ]
    assert not wrong, "\n".join(wrong)
    stale = [r["case"] for r in results if not agrees(r)]
    assert not stale, (
        f"docs/capabilities.md says otherwise of {stale}: run python -m tests.capabilities"
    )


def agrees(result) -> bool:
    """Whether it came out no worse than the page's source has it; bfloat16 is not on the page."""
    if result["dtype"] == "bfloat16":
        return True
    shown = measurements.of(nearest()).get(result["case"], {}).get(result["dtype"], {})
    reached = verdicts(result, CASES[result["case"]].orders)
    return all(
        mode in shown and VERDICTS.index(now) <= VERDICTS.index(shown[mode])
        for mode, now in reached.items()
    )


def test_the_page_is_what_the_table_and_the_cases_make_of_it():
    """With a JAX that was measured; of any other the package says that it was not."""
    if jax.__version__ not in measurements.versions():
        assert f"this is jax {jax.__version__}" in measured_with.unmeasured()
        return
    assert set(measurements.of(jax.__version__)) == set(CASES)
    text = measurements.page(jax.__version__).read_text()
    assert text == page.page(jax.__version__, CASES), "run python -m tests.capabilities --page"


def nearest() -> str:
    """The newest version that was measured and is not newer than this JAX."""
    numbers = lambda version: [int(part) for part in version.split(".")]
    return max(
        (v for v in measurements.versions() if numbers(v) <= numbers(jax.__version__)), key=numbers
    )


def test_the_package_knows_the_versions_that_were_measured():
    assert list(measured_with.JAX) == measurements.versions()
    assert all(measurements.page(version).is_file() for version in measured_with.JAX)
    assert all(measured_with.unmeasured(version) is None for version in measured_with.JAX)


def test_what_differs_between_versions_is_read_and_written_whole(monkeypatch, tmp_path):
    monkeypatch.setattr(measurements, "FILE", tmp_path / "measured.json")
    measurements.FILE.write_text('{"enzyme-ad": "1", "jax": {}}')
    old = {"a": {"float64": {"reverse": "exact"}}, "b": {"float64": {"reverse": "exact"}}}
    new = {"a": {"float64": {"reverse": "fails"}}, "c": {"float64": {"reverse": "exact"}}}
    measurements.record("0.12.0", "1", new)
    measurements.record("0.9.1", "1", old)
    assert measurements.versions() == ["0.9.1", "0.12.0"]
    assert measurements.of("0.9.1") == old and measurements.of("0.12.0") == new
    assert measurements.of("0.10.0") == {}


def traced(case):
    return jax.make_jaxpr(case.fn)(
        *(
            np.asarray(a, np.float32) if np.asarray(a).dtype == np.float64 else a
            for a in case.inputs
        )
    )


def test_every_entry_of_the_table_has_a_case():
    shown = {"reverse": set(), "forward": set()}
    for case in CASES.values():
        present = {
            e.primitive for e in equations(traced(case).jaxpr) if e.primitive.name in case.proves
        }
        shown["reverse"] |= present
        if case.orders == 2:
            shown["forward"] |= present
    claimed = {mode: {p for p, c in CAPABILITIES.items() if mode in c.modes} for mode in shown}
    missing = {mode: sorted(p.name for p in claimed[mode] - shown[mode]) for mode in shown}
    assert missing == {"reverse": [], "forward": []}


@pytest.mark.parametrize("name", CASES)
def test_the_table_admits_the_case(name):
    case = CASES[name]
    for mode in ("reverse", "forward")[: case.orders]:
        assert unproven(traced(case), mode) == []


def test_no_lowering_goes_through_a_custom_rule():
    """The rule must survive.

    JAX takes a custom function apart when it traces a function in a lowering.
    """
    lowerings = {p: c.lowering for p, c in CAPABILITIES.items() if c.lowering and not c.is_rule}
    lowered = [
        e
        for case in CASES.values()
        for e in equations(traced(case).jaxpr)
        if e.primitive in lowerings
    ]
    through = set()
    for eqn in {(e.primitive, str(e.params)): e for e in lowered}.values():
        inside = jax.make_jaxpr(lambda *xs, e=eqn: lowerings[e.primitive](*xs, **e.params))(
            *(v.aval for v in eqn.invars)
        )
        if any("custom" in e.primitive.name for e in equations(inside.jaxpr)):
            through.add(eqn.primitive.name)
    assert through == set()


# --- What the table must not admit ----------------------------------------------------------------


@pytest.mark.parametrize("name", DECLINED)
def test_the_table_declines(name):
    assert page.reason(*DECLINED[name])


def test_refusal_names_the_users_line():
    def fn(x):
        return clipped(x)  # this line

    (equation,) = unproven(jax.make_jaxpr(fn)(X), "reverse")
    line = next(
        i
        for i, text in enumerate(Path(__file__).read_text().splitlines(), 1)
        if text.endswith("# this line")
    )
    assert f"{Path(__file__).name}:{line}" in equation.source


ADMITTED = {
    "behind stop_gradient": lambda x: x * jax.lax.stop_gradient(x),
    "of a constant": lambda x: x * clipped(jnp.arange(3.0)),
    "of integers": lambda x: x * clipped(jnp.argmax(x).astype(jnp.float32)),
    "random bits": lambda x: x * jax.random.normal(jax.random.key(0), x.shape),
    "an inactive turn": lambda x: jax.lax.scan(lambda c, t: (c, clipped(c) * t), jnp.ones(()), x)[
        1
    ],
}


@pytest.mark.parametrize("name", ADMITTED)
def test_what_no_derivative_reaches_needs_no_proof(name):
    assert unproven(jax.make_jaxpr(ADMITTED[name])(X), "forward") == []


def test_active_inputs_can_be_named():
    jaxpr = jax.make_jaxpr(lambda x, y: x * clipped(y))(X, X)
    assert unproven(jaxpr, "reverse", active=[True, False]) == []
    assert [u.primitive for u in unproven(jaxpr, "reverse", active=[True, True])] == [
        "custom_vjp_call"
    ]


def test_mode_is_checked():
    with pytest.raises(ValueError, match="mode must be 'reverse' or 'forward', not 'both'"):
        unproven(jax.make_jaxpr(jnp.sin)(X), "both")


def test_overrides_are_for_primitives_of_the_table_and_custom_rules():
    names = [p.name for p, _ in overrides()]
    assert len(names) == len(set(names))
    assert set(names) <= {p.name for p in CAPABILITIES} | {
        "custom_jvp_call",
        "metagrad_hi_call",
        "stop_gradient",
    }
