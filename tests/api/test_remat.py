"""The option `remat`: what it takes, what "auto" chooses, and what it leaves of a step's memory."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import metagrad
from metagrad.api import remat_choice
from metagrad.runtime.schedules import measured_costs

LAYERS, EXAMPLES, WIDTH, STEPS = 8, 512, 32, 2


def block(x, w):
    for _ in range(3):
        x = jnp.tanh(jnp.sin(x @ w) * jnp.cos(x))
    return x + checkpoint_name(jnp.sin(x @ w), "hidden")


def by_loop(ws, x, layer=block):
    for w in ws:
        x = layer(x, w)
    return x


def by_scan(ws, x, layer=block):
    return lax.scan(lambda x, w: (layer(x, w), None), x, ws)[0]


def loss_of(apply):
    return lambda p, rate, x: jnp.mean(apply(p, x) ** 2)


def run(apply, **options):
    loss = loss_of(apply)

    @metagrad.compile
    def step(p, rate, x):
        return jax.tree.map(lambda p, g: p - rate * g, p, metagrad.grad(loss)(p, rate, x))

    return step.metagradient(lambda p: jnp.sum(jax.tree.leaves(p)[0] ** 2), **options)


def shapes(scanned=False, examples=EXAMPLES):
    shape = jax.ShapeDtypeStruct
    w = shape((WIDTH, WIDTH), jnp.float32)
    p = shape((LAYERS, WIDTH, WIDTH), jnp.float32) if scanned else [w] * LAYERS
    return p, shape((), jnp.float32), shape((STEPS, examples, WIDTH), jnp.float32)


def values(scanned=False):
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(random.normal(size=x.shape), x.dtype) / 4, shapes(scanned, 32)
    )


def temporaries(lowered):
    return lowered.compile().memory_analysis().temp_size_in_bytes


def by_hand(loss, layers):
    """MixFlow-MG's product by hand: forward over reverse."""
    product = jax.jit(lambda p, x, v: jax.jvp(jax.grad(lambda p: loss(p, 0.0, x)), (p,), (v,))[1])
    p, _, batches = shapes(layers is by_scan)
    return temporaries(product.lower(p, jax.ShapeDtypeStruct(batches.shape[1:], jnp.float32), p))


# --- What it takes --------------------------------------------------------------------------------


def test_unknown_values_are_refused():
    with pytest.raises(ValueError, match="remat='layers' is none of 'blocks', 'none', 'auto'"):
        run(by_loop, remat="layers")
    step = metagrad.compile(lambda w, rate, x: w - rate * x, ad="enzyme")
    with pytest.raises(ValueError, match='remat="blocks" has JAX differentiate'):
        step.metagradient(jnp.sum, remat="blocks")
    assert step.metagradient(jnp.sum, remat="auto").request.remat == "auto"


@pytest.mark.parametrize("apply", [by_loop, by_scan])
def test_it_says_what_is_computed_again(apply):
    """By the user's line and option; nobody wrote a `jax.checkpoint`."""
    text = run(apply, remat="blocks").lower(*shapes(apply is by_scan)).explain()
    assert re.search(rf"{LAYERS} (repeats|turns).*test_remat.py:\d+ \(block\)", text), text
    assert 'remat="blocks": JAX computes again what Enzyme would keep' in text
    assert "jax.checkpoint" not in text


def test_without_blocks_it_says_so():
    lowered = run(lambda p, x: jnp.tanh(x @ p[0]), remat="blocks").lower(*shapes())
    assert "no blocks were found in" in lowered.explain()
    assert "remat" not in str(lowered.plan)
    assert [decision.rule for decision in lowered.decisions] == ["enzyme"] * 3


# --- What it leaves of the memory -----------------------------------------------------------------


@pytest.mark.parametrize("apply", [by_loop, by_scan])
def test_the_memory_is_that_of_a_block(apply):
    """Below that without blocks by far, and not above what is written by hand."""
    scanned = apply is by_scan
    none, blocks = (
        temporaries(run(apply, schedule=metagrad.StoreAll(), remat=remat).lower(*shapes(scanned)))
        for remat in ("none", "blocks")
    )
    wrapped = jax.checkpoint(block, prevent_cse=not scanned)
    hand = by_hand(loss_of(lambda p, x: apply(p, x, wrapped)), apply)
    slots = (STEPS + 1) * 2 * 4 * LAYERS * WIDTH**2
    assert blocks - slots < 0.6 * (none - slots)
    assert blocks - slots <= 1.05 * hand


@pytest.mark.parametrize("has_aux", [False, True])
def test_the_outer_function_goes_forward_once(has_aux):
    """Its value comes from its derivative's forward pass: no loop over the layers is for it."""

    @metagrad.compile
    def step(p, rate, x):
        return p - rate * metagrad.grad(lambda p: jnp.sum(p**2))(p)

    def outer(p, x):
        value = loss_of(by_scan)(p, None, x)
        return (value, jnp.sum(p)) if has_aux else value

    p, rate, x = shapes(scanned=True)
    loops = {}
    for remat in ("blocks", "none"):
        mg = step.metagradient(outer, has_aux=has_aux, remat=remat)
        lowered = mg.lower(
            p, rate, jax.ShapeDtypeStruct((STEPS,), x.dtype), x.update(shape=x.shape[1:])
        )
        assert lowered.decisions[-1].rule == ("enzyme" if remat == "none" else "jax")
        loops[remat] = lowered.compile().as_text().count(" while(")
    assert loops["blocks"] == loops["none"]


def test_the_users_policies_rule_at_both_orders():
    """What a policy lets be saved is what the VJP of a step has, as by hand."""
    policies = jax.checkpoint_policies
    ours, hand = [], []
    for policy in (
        policies.nothing_saveable,
        policies.save_only_these_names("hidden"),
        policies.dots_saveable,
        policies.everything_saveable,
    ):
        wrapped = jax.checkpoint(block, policy=policy, prevent_cse=False)
        apply = lambda p, x, wrapped=wrapped: by_scan(p, x, wrapped)
        mg = run(apply, schedule=metagrad.StoreAll(), remat="blocks")
        ours.append(temporaries(mg.lower(*shapes(True))))
        hand.append(by_hand(loss_of(apply), by_scan))
    slots = (STEPS + 1) * 2 * 4 * LAYERS * WIDTH**2
    assert hand == sorted(hand)
    assert ours == sorted(ours)
    for o, h in zip(ours, hand):
        assert o - slots <= 1.05 * h


# --- What "auto" chooses --------------------------------------------------------------------------


def test_auto_recomputes_nothing_as_long_as_it_fits():
    lowered = run(by_loop).lower(*shapes())
    assert "computed again" not in lowered.explain()
    assert lowered.decisions[0].rule == "enzyme"


def test_auto_recomputes_what_does_not_fit_what_is_free(monkeypatch):
    monkeypatch.setattr(remat_choice, "free_budget", lambda shardings: 1_000_000)
    lowered = run(by_loop, schedule=metagrad.StoreAll()).lower(*shapes())
    assert "8 repeats of" in lowered.explain()
    assert "8 blocks of" in str(lowered.plan)


def test_a_budget_decides(cached, monkeypatch):
    """With a budget in which nothing is run again, and with one in which only blocks leave room."""
    monkeypatch.setattr(measured_costs, "SECONDS", 0.1)
    arguments = values(scanned=True)
    wanted = run(by_scan, remat="none")(*arguments)
    plans = {}
    for memory in ("64MiB", "720KiB"):
        mg = run(by_scan, schedule=metagrad.Auto(memory=memory), runtime="fused")
        lowered = mg.lower(*arguments)
        plans[memory] = lowered.plan
        np.testing.assert_allclose(mg(*arguments).grad, wanted.grad, rtol=1e-4)
        analysis = lowered.compile().memory_analysis()
        taken = (
            analysis.temp_size_in_bytes
            + analysis.argument_size_in_bytes
            + analysis.output_size_in_bytes
        )
        assert taken <= 1.05 * lowered.plan.bytes
    assert "remat" not in str(plans["64MiB"])
    assert "8 blocks of" in str(plans["720KiB"])


# --- Where else it goes ---------------------------------------------------------------------------


def test_a_streamed_run_and_a_file(tmp_path):
    arguments = values(scanned=True)
    wanted = run(by_scan, remat="none")(*arguments).grad
    streamed = run(by_scan, remat="blocks", runtime="streamed")
    lowered = streamed.lower(*arguments)
    assert "8 turns of a scan" in lowered.explain()
    assert "8 blocks of" in str(lowered.plan)
    np.testing.assert_allclose(streamed(*arguments).grad, wanted, rtol=1e-4)
    file = tmp_path / "run.mg"
    compiled = run(by_loop, remat="blocks").lower(*values()).compile()
    compiled.export(file, platforms=("cpu",))
    loaded = metagrad.load(file)
    again = loaded(*values())
    np.testing.assert_array_equal(again.grad, compiled(*values()).grad)


def test_weak_types_find_the_program_again():
    """A call with a Python number traces the step again to see whether the program serves."""
    p, rate, batches = values()
    mg = run(by_loop, remat="blocks")
    first = mg(p, rate, batches).grad
    mg(p, float(rate), batches)
    assert len(set(map(id, mg._programs.values()))) == 1
    np.testing.assert_allclose(mg(p, float(rate), batches).grad, first, rtol=1e-6)


def test_check_takes_it_over():
    report = metagrad.check(run(by_scan, remat="blocks"), *values(scanned=True))
    assert report.verdict == "agrees"
