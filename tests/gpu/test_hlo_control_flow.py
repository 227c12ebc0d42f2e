"""Questions to the host are counted on the program's own tables; copies stand in their loops."""

import jax.numpy as jnp
import pytest

import metagrad
from benchmarks.hlo.control_flow import Undecided, count, unknown_loops
from benchmarks.hlo.copies import copies, loop_depths
from benchmarks.hlo.text import parse
from metagrad.runtime import jax_internals
from metagrad.runtime.schedules.loop_tables import loop_tables

# for walk in 0 .. 3:            (trips known)
#     for i in 0 .. lengths[walk]:
#         for j in 0 .. i % 2:   a loop of zero or one trips
TEXT = """\
HloModule walks

%inner_body (b: (s32[], f32[64,4])) -> (s32[], f32[64,4]) {
  %b = (s32[], f32[64,4]{1,0}) parameter(0)
  %bj = s32[] get-tuple-element(%b), index=0
  %bx = f32[64,4]{1,0} get-tuple-element(%b), index=1
  %b1 = s32[] constant(1)
  %bn = s32[] add(%bj, %b1)
  %bc = f32[64,4]{1,0} copy(%bx)
  ROOT %bo = (s32[], f32[64,4]{1,0}) tuple(%bn, %bc)
}

%inner_cond (c: (s32[], f32[64,4])) -> pred[] {
  %c = (s32[], f32[64,4]{1,0}) parameter(0)
  %cj = s32[] get-tuple-element(%c), index=0
  %c1 = s32[] constant(1)
  ROOT %cl = pred[] compare(%cj, %c1), direction=LT
}

%start (sp: s32[]) -> s32[] {
  %sp = s32[] parameter(0)
  %s2 = s32[] constant(2)
  %s1 = s32[] constant(1)
  %sr = s32[] remainder(%sp, %s2)
  ROOT %sd = s32[] subtract(%s1, %sr)
}

%run_body (r: (s32[], f32[64,4], s32[])) -> (s32[], f32[64,4], s32[]) {
  %r = (s32[], f32[64,4]{1,0}, s32[]) parameter(0)
  %ri = s32[] get-tuple-element(%r), index=0
  %rx = f32[64,4]{1,0} get-tuple-element(%r), index=1
  %rn = s32[] get-tuple-element(%r), index=2
  %first = s32[] fusion(%ri), kind=kLoop, calls=%start
  %pair = (s32[], f32[64,4]{1,0}) tuple(%first, %rx)
  %optional = (s32[], f32[64,4]{1,0}) while(%pair), condition=%inner_cond, body=%inner_body
  %ox = f32[64,4]{1,0} get-tuple-element(%optional), index=1
  %r1 = s32[] constant(1)
  %rm = s32[] add(%ri, %r1)
  ROOT %ro = (s32[], f32[64,4]{1,0}, s32[]) tuple(%rm, %ox, %rn)
}

%run_cond (d: (s32[], f32[64,4], s32[])) -> pred[] {
  %d = (s32[], f32[64,4]{1,0}, s32[]) parameter(0)
  %di = s32[] get-tuple-element(%d), index=0
  %dn = s32[] get-tuple-element(%d), index=2
  ROOT %dl = pred[] compare(%di, %dn), direction=LT
}

%walk_body (w: (s32[], f32[64,4])) -> (s32[], f32[64,4]) {
  %w = (s32[], f32[64,4]{1,0}) parameter(0)
  %wi = s32[] get-tuple-element(%w), index=0
  %wx = f32[64,4]{1,0} get-tuple-element(%w), index=1
  %lengths = s32[3]{0} constant({LENGTHS})
  %row = s32[1]{0} dynamic-slice(%lengths, %wi), dynamic_slice_sizes={1}
  %length = s32[] bitcast(%row)
  %zero = s32[] constant(0)
  %wc = f32[64,4]{1,0} copy(%wx)
  %triple = (s32[], f32[64,4]{1,0}, s32[]) tuple(%zero, %wc, %length)
  %runs = (s32[], f32[64,4]{1,0}, s32[]) while(%triple), condition=%run_cond, body=%run_body
  %wy = f32[64,4]{1,0} get-tuple-element(%runs), index=1
  %w1 = s32[] constant(1)
  %wn = s32[] add(%wi, %w1)
  ROOT %wo = (s32[], f32[64,4]{1,0}) tuple(%wn, %wy)
}

%walk_cond (e: (s32[], f32[64,4])) -> pred[] {
  %e = (s32[], f32[64,4]{1,0}) parameter(0)
  %ei = s32[] get-tuple-element(%e), index=0
  %e3 = s32[] constant(3)
  ROOT %el = pred[] compare(%ei, %e3), direction=LT
}

ENTRY %main (x: f32[64,4], n: s32[]) -> f32[64,4] {
  %x = f32[64,4]{1,0} parameter(0)
  %n = s32[] parameter(1)
  %m0 = s32[] START
  %mp = (s32[], f32[64,4]{1,0}) tuple(%m0, %x)
  %walks = (s32[], f32[64,4]{1,0}) while(%mp), condition=%walk_cond, body=%walk_bodyTRIPS
  ROOT %my = f32[64,4]{1,0} get-tuple-element(%walks), index=1
}
"""
KNOWN = ', backend_config={"known_trip_count":{"n":"3"}}'


def program(lengths="4, 0, 2", trips=KNOWN, start="constant(0)"):
    return parse(TEXT.replace("LENGTHS", lengths).replace("TRIPS", trips).replace("START", start))


def test_a_loop_of_n_trips_asks_n_plus_one_times():
    counts = count(program())
    # Runs: 4 + 1, 0 + 1, 2 + 1. The optional loops: each run asks once, and once more if it runs,
    # which those with an odd i do.
    assert counts.questions == {"runs": 9, "optional": 6 + 3}
    assert counts.total == 18
    assert counts.executions["walk_body"] == 3
    assert counts.executions["run_body"] == 6
    assert counts.executions["inner_body"] == 3


def test_an_outer_loop_of_unknown_trips_asks_as_well():
    assert count(program(trips="")).questions["walks"] == 4
    assert set(unknown_loops(program(trips=""))) == {"walks", "runs", "optional"}


def test_a_table_that_the_text_leaves_out():
    with pytest.raises(Undecided, match="runs"):
        count(program(lengths="..."))


def test_a_loop_that_depends_on_an_argument():
    assert count(program(start="add(%m1, %m1)\n  %m1 = s32[] constant(0)", trips="")).total == 22
    with pytest.raises(Undecided, match="walks"):
        count(program(start="copy(%n)", trips=""))


def test_what_is_in_a_command_buffer_asks_nothing():
    text = TEXT.replace("LENGTHS", "4, 0, 2").replace("TRIPS", KNOWN)
    text = text.replace("START", "constant(0)").replace("ENTRY %main", "%command_buffer")
    module = parse(
        text
        + """
ENTRY %main (u: f32[64,4], v: s32[]) -> f32[64,4] {
  %u = f32[64,4]{1,0} parameter(0)
  %v = s32[] parameter(1)
  ROOT %called = f32[64,4]{1,0} call(%u, %v), to_apply=%command_buffer
}
"""
    )
    counts = count(module)
    assert counts.total == 0
    assert counts.executions["run_body"] == 6


@pytest.mark.parametrize("index, questions", [("0", 1), ("1", 2), ("7", 2)])
def test_a_conditional_is_asked_once(index, questions):
    """An index out of range takes the last branch."""
    module = parse(f"""\
HloModule chosen

%goes_on (g: s32[]) -> pred[] {{
  %g = s32[] parameter(0)
  ROOT %no = pred[] constant(false)
}}

%same (h: s32[]) -> s32[] {{
  ROOT %h = s32[] parameter(0)
}}

%nothing (k: s32[]) -> s32[] {{
  ROOT %k = s32[] parameter(0)
}}

%asks (l: s32[]) -> s32[] {{
  %l = s32[] parameter(0)
  ROOT %again = s32[] while(%l), condition=%goes_on, body=%same
}}

ENTRY %main (o: s32[]) -> s32[] {{
  %o = s32[] parameter(0)
  %at = s32[] constant({index})
  ROOT %chosen = s32[] conditional(%at, %o, %o), branch_computations={{%nothing, %asks}}
}}
""")
    assert count(module).total == questions


def test_copies_and_their_loops():
    module = program()
    assert loop_depths(module) == {
        "main": 0,
        "walk_body": 1,
        "walk_cond": 1,
        "run_body": 2,
        "run_cond": 2,
        "inner_body": 3,
        "inner_cond": 3,
    }
    found = copies(module, 1024, {("f32", (64, 4))})
    assert [(each.computation, each.depth, each.is_state) for each in found] == [
        ("walk_body", 1, True),
        ("inner_body", 3, True),
    ]
    assert copies(module, 1025, {("f32", (64, 4))}) == []


@pytest.mark.parametrize(
    "state, before, is_state",
    [
        (("f32", (64, 4)), "{1,0}", True),
        (("f32", (4,)), "{1,0}", True),  # sixty-four slots of it
        (("f32", (64, 4)), "{0,1}", False),  # a transposition
        (("f32", (8, 4)), "{1,0}", False),
        (("bf16", (64, 4)), "{1,0}", False),
    ],
)
def test_which_copies_are_of_a_state(state, before, is_state):
    module = parse(f"""\
HloModule fused

%only_copies (p: f32[64,4]) -> f32[64,4] {{
  %p = f32[64,4]{before} parameter(0)
  ROOT %q = f32[64,4]{{1,0}} copy(%p)
}}

%works (s: f32[64,4]) -> f32[64,4] {{
  %s = f32[64,4]{{1,0}} parameter(0)
  %t = f32[64,4]{{1,0}} copy(%s)
  ROOT %u = f32[64,4]{{1,0}} add(%t, %s)
}}

ENTRY %main (x: f32[64,4]) -> f32[64,4] {{
  %x = f32[64,4]{before} parameter(0)
  %y = f32[64,4]{{1,0}} fusion(%x), kind=kLoop, calls=%only_copies
  ROOT %z = f32[64,4]{{1,0}} fusion(%y), kind=kLoop, calls=%works
}}
""")
    assert [each.is_state for each in copies(module, 0, {state})] == [is_state]


def test_a_plans_loops_run_as_often_as_the_plan_says():
    """The program of a plan, compiled for this machine: walks, runs, steps and VJPs."""

    @metagrad.compile
    def step(state, rate, x):
        gradient = metagrad.grad(lambda w: jnp.sum(jnp.tanh(x @ w) ** 2))(state)
        return state - rate * gradient

    # A state of 2,000 floats is too large to be written where it need not be.
    arguments = jnp.ones((40, 50)), jnp.float32(0.1), jnp.ones((11, 3, 40))
    compiled = step.metagradient(jnp.sum, schedule=metagrad.Binomial(3)).lower(*arguments).compile()
    tables = loop_tables(compiled.plan, gradients=True)
    counts = count(parse(jax_internals.hlo_text(compiled.xla)))
    executions = set(counts.executions.values())
    assert len(tables.walks["walk_load"]) in executions
    assert len(tables.runs["run_steps"]) in executions
    assert int(tables.runs["run_steps"].sum()) in executions
    assert compiled.plan.vjps in executions
    steps, runs = int(tables.runs["run_steps"].sum()), len(tables.runs["run_steps"])
    # The loop over the steps of a run is asked once more in each run.
    assert steps + runs in counts.questions.values()


def test_values_pass_through_asynchronous_fusions():
    module = parse("""\
HloModule asynchronous

%fetch (t: s32[4], i: s32[]) -> s32[1] {
  %t = s32[4]{0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %part = s32[1]{0} dynamic-slice(%t, %i), dynamic_slice_sizes={1}
}

%body (b: s32[]) -> s32[] {
  %b = s32[] parameter(0)
  %less = s32[] constant(-1)
  ROOT %next = s32[] add(%b, %less)
}

%cond (c: s32[]) -> pred[] {
  %c = s32[] parameter(0)
  %zero = s32[] constant(0)
  ROOT %more = pred[] compare(%c, %zero), direction=GT
}

ENTRY %main () -> s32[] {
  %table = s32[4]{0} constant({9, 5, 7, 8})
  %at = s32[] constant(1)
  %start = ((s32[4]{0}, s32[]), s32[1]{0}, u32[]) fusion-start(%table, %at), calls=%fetch
  %done = s32[1]{0} fusion-done(%start)
  %trips = s32[] bitcast(%done)
  ROOT %loop = s32[] while(%trips), condition=%cond, body=%body
}
""")
    assert count(module).total == 5 + 1
