"""What a metagradient in forward mode is beside its number: stages, plan, export, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import runs
from exact.unrolled import DOUBLE, assert_close

import metagrad

ROWS = np.linspace(-1.0, 1.0, 600).reshape(200, 3)


def loss(w, z, x):
    return jnp.mean(z["scale"] * jnp.tanh(ROWS @ w - x) ** 2)


@metagrad.compile
def step(w, z, x):
    return w - z["rate"] * metagrad.grad(loss)(w, z, x)


def outer(w):
    return jnp.sum(w**2)


ARGUMENTS = np.array([0.3, -0.2, 0.5]), {"rate": 0.1, "scale": 0.8}, np.linspace(0.1, 0.9, 5)


@pytest.fixture(scope="module")
def lowered():
    with jax.enable_x64(True):
        yield step.metagradient(outer, mode="forward").lower(*ARGUMENTS)


@pytest.fixture(scope="module")
def exact():
    with jax.enable_x64(True):
        yield step.metagradient(outer)(*ARGUMENTS)


def test_plan_and_explanation(lowered):
    plan = lowered.plan
    assert isinstance(plan, metagrad.ForwardPlan)
    assert (plan.steps, plan.directions, plan.advances, plan.vjps) == (5, 2, 5, 0)
    assert plan.tangents == 2 * 3 * 8 and plan.bytes > plan.tangents
    assert "forward mode: 5 steps, 2 directions" in str(plan) and "no state is stored" in str(plan)
    assert plan._repr_html_().startswith("<pre")
    text = lowered.explain()
    assert "loss (test_forward_interface.py:" in text and "JAX (forward mode)" in text
    assert repr(lowered).endswith("forward mode>")


def test_stages(lowered):
    assert lowered.stages == ("traced", "forward", "program", "hlo")
    assert "metagrad.grad" in lowered.ir("traced")
    assert all("@main" in lowered.ir(stage) for stage in ("forward", "program"))
    assert "while" in lowered.ir("hlo")
    with pytest.raises(ValueError, match="no stage 'cut'; there are 'traced', 'forward'"):
        lowered.ir("cut")


def test_large_constants_are_arguments(lowered, exact):
    """200 rows are in no text of the program."""
    assert len(lowered.program.captured.avals()) == 1
    assert all(len(lowered.ir(stage)) < 40_000 for stage in ("forward", "program"))
    assert_close(lowered.compile()(*ARGUMENTS).grad, exact.grad, DOUBLE)


def test_exported(lowered, exact, tmp_path):
    lowered.compile().export(tmp_path / "run.mg", ("cpu",))
    loaded = metagrad.load(tmp_path / "run.mg")
    assert loaded.plan == lowered.plan
    assert "forward mode: 5 steps" in loaded.explain()
    assert_close(loaded(*ARGUMENTS).grad, exact.grad, DOUBLE)


def test_a_second_call_traces_nothing():
    calls = []

    @metagrad.compile
    def counted(w, z, x):
        calls.append(None)
        return w - z["rate"] * metagrad.grad(loss)(w, z, x)

    mg = counted.metagradient(outer, mode="forward")
    mg(*ARGUMENTS)
    made = len(calls)
    mg(*ARGUMENTS)
    assert len(calls) == made
    # A number in place of an array: traced to see, and the same program serves.
    w, _, xs = ARGUMENTS
    mg(w, {"rate": np.asarray(0.1), "scale": 0.8}, xs)
    assert len(calls) > made
    assert len({id(program) for program in mg._programs.values()}) == 1


def test_inside_jit_and_its_derivative(exact):
    """A traced value is closed over, and `jax.grad` of the value is the gradient."""
    mg = lambda scale: metagrad.compile(
        lambda w, z, x: step(w, z | {"scale": scale}, x)
    ).metagradient(outer, mode="forward")
    w, z, xs = ARGUMENTS

    def run(z, scale):
        return mg(jax.lax.stop_gradient(scale))(w, z, xs).value

    value, grad = jax.jit(jax.value_and_grad(run))({"rate": z["rate"]}, z["scale"])
    assert_close(value, exact.value, DOUBLE, "value")
    assert_close(grad["rate"], exact.grad["rate"], DOUBLE)


def test_under_vmap_and_jvp(exact):
    """Programs of several runs, and of a run with its tangents, are made in reverse mode."""
    w, z, xs = ARGUMENTS
    forward, reverse = (step.metagradient(outer, mode=mode) for mode in ("forward", "reverse"))
    rates = jnp.array([0.1, 0.2])
    of_rate = lambda mg: lambda rate: mg(w, z | {"rate": rate}, xs).grad["rate"]
    got, want = (jax.vmap(of_rate(mg))(rates) for mg in (forward, reverse))
    assert_close(got, want, DOUBLE)
    assert_close(got[0], exact.grad["rate"], DOUBLE)
    second = lambda mg: jax.jvp(of_rate(mg), (0.1,), (1.0,))[1]
    assert_close(second(forward), second(reverse), DOUBLE)


def test_prints_once_for_each_step(capfd):
    @metagrad.compile
    def printing(w, rate, x):
        value, g = metagrad.value_and_grad(lambda w: jnp.sum((w - x) ** 2))(w)
        jax.debug.print("step {}", value)
        return w - rate * g

    def last(w):
        jax.debug.print("end {}", w)
        return w

    mg = printing.metagradient(last, mode="forward")
    jax.block_until_ready(mg(1.0, 0.1, jnp.arange(3.0)))
    jax.effects_barrier()
    out = capfd.readouterr().out
    assert out.count("step") == 3 and out.count("end") == 1


def test_not_finite():
    @metagrad.compile
    def rooted(w, z, x):
        return w - z["rate"] * jnp.sqrt(z["zero"] * x)

    arguments = 1.0, {"rate": 0.1, "zero": 0.0}, jnp.ones(2)
    with pytest.warns(RuntimeWarning, match=r"NaN or infinity in .*meta\['zero'\].*root"):
        rooted.metagradient(lambda w: w, mode="forward")(*arguments)
    with pytest.warns(RuntimeWarning, match="NaN or infinity"):
        rooted.metagradient(lambda w: w)(*arguments)


def test_nan_with_the_step():
    @metagrad.compile
    def rooted(w, z, x):
        return w * jnp.sqrt(z * x) + 0 * w

    mg = rooted.metagradient(lambda w: w, mode="forward", check_nans=True)
    with pytest.raises(FloatingPointError, match="the metagradient has a NaN in"):
        mg(1.0, -1.0, jnp.ones(2))


@pytest.mark.parametrize("axes", ["Auto", "Explicit"])
def test_sharded_batches(axes):
    types = (getattr(jax.sharding.AxisType, axes),)
    mesh = jax.make_mesh((2,), ("data",), axis_types=types)
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "data"))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    state, meta, batches = {"params": runs.params()}, runs.meta(), runs.data(3)
    want = runs.sgd().metagradient(runs.outer)(state, meta, batches)
    placed = jax.device_put((state, meta), everywhere)
    got = runs.sgd().metagradient(runs.outer, mode="forward")(
        *placed, jax.device_put(batches, sharding)
    )
    assert len(got.state["params"]["w1"].devices()) == 2
    assert_close(jax.device_get(got.grad), jax.device_get(want.grad), DOUBLE)


REFUSED = {
    "schedule": {"schedule": metagrad.StoreAll()},
    "resume_dir": {"resume_dir": "runs"},
    "verify": {"verify": "replay"},
    "runtime": {"runtime": "streamed"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_it_has_not(name):
    options = {"runtime": "streamed"} | REFUSED[name] if name == "verify" else REFUSED[name]
    with pytest.raises(ValueError, match=r"with mode='forward': .* use mode='reverse'"):
        step.metagradient(outer, mode="forward", **options)


def test_refused():
    with pytest.raises(ValueError, match="mode='fwd' is none of 'reverse', 'forward', 'auto'"):
        step.metagradient(outer, mode="fwd")
    w, z, xs = ARGUMENTS
    with pytest.raises(TypeError, match="mode='forward' is one program"):
        step.metagradient(outer, mode="forward")(w, z, metagrad.Stream(xs))
    enzyme = metagrad.compile(lambda w, z, x: w * z, ad="enzyme")
    with pytest.raises(ValueError, match="compiled with ad='enzyme'"):
        enzyme.metagradient(outer, mode="forward")(w, 0.1, xs)
    wide = metagrad.compile(lambda w, z, x: w + jnp.sum(z) * x)
    huge = jax.ShapeDtypeStruct((2_000_000,), float)
    with pytest.raises(ValueError, match=r"2,000,000 tangents .* Use mode='reverse'"):
        wide.metagradient(jnp.sum, mode="forward").lower(huge, huge, xs)


def test_a_rule_for_reverse_mode_alone():
    @jax.custom_vjp
    def f(x):
        return x

    f.defvjp(lambda x: (x, None), lambda _, cotangent: (cotangent,))
    # In the loss and in the outer function, JAX's reverse mode is gone through first.
    ours = metagrad.compile(lambda w, z, x: w - z * metagrad.grad(lambda w: f(w * x) ** 2)(w))
    mg = ours.metagradient(lambda w: f(w), mode="forward")
    assert_close(mg(1.0, 0.1, jnp.ones(2)).grad, -3.2, DOUBLE)
    clipped = metagrad.compile(lambda w, z, x: w - f(z * x))
    with pytest.raises(
        NotImplementedError, match=r"tangent goes through a custom_vjp .*mode='reverse'"
    ):
        clipped.metagradient(lambda w: w, mode="forward")(1.0, 0.1, jnp.ones(2))


def test_blocks_are_computed_again():
    """The option `remat` says which activations of a step's own reverse pass are kept."""

    def layer(x, w):
        for _ in range(3):
            x = jnp.tanh(jnp.sin(x @ w) * jnp.cos(x))
        return x

    @metagrad.compile
    def deep(ws, rate, x):
        def loss(ws):
            return jnp.mean(jax.lax.scan(lambda x, w: (layer(x, w), None), x, ws)[0] ** 2)

        return ws - rate * metagrad.grad(loss)(ws)

    ws, xs = jnp.ones((8, 4, 4)) / 5, jnp.linspace(-1.0, 1.0, 3 * 512 * 4).reshape(3, 512, 4)
    compiled = {
        remat: deep.metagradient(jnp.sum, mode="forward", remat=remat).lower(ws, 0.1, xs).compile()
        for remat in ("none", "blocks")
    }
    kept, again = (c.memory_analysis().temp_size_in_bytes for c in compiled.values())
    assert again < kept
    grads = [c(ws, 0.1, xs).grad for c in compiled.values()]
    assert_close(*grads, DOUBLE)


def test_a_leaf_without_entries():
    nothing = metagrad.compile(lambda w, z, x: w * x + jnp.sum(z))
    result = nothing.metagradient(jnp.sum, mode="forward")(
        jnp.ones(2), jnp.zeros((0, 3)), jnp.ones(2)
    )
    assert result.grad.shape == (0, 3) and result.value == 2


def test_repr():
    assert "mode='forward'" in repr(step.metagradient(outer, mode="forward"))
    assert "mode='auto', schedule=Auto()" in repr(step.metagradient(outer, mode="auto"))
