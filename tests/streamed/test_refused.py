"""What a streamed run cannot do, and what breaks during one: clear errors, and nothing left."""

import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metagrad

from . import plans, small

STEPS = 10


@pytest.fixture(scope="module")
def compiled():
    with jax.enable_x64(True):
        mg = small.step.metagradient(small.outer)
        stream = metagrad.Stream(small.stacked(STEPS))
        return plans.compiled(
            mg, *small.arguments(), stream, length=small.LENGTH, tiers=("disk", "host")
        )


def threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith("metagrad-")}


def descriptors():
    return {
        path for entry in os.scandir("/proc/self/fd") if "metagrad" in (path := _target(entry.path))
    }


def _target(path):
    try:
        return os.readlink(path)
    except OSError:
        return ""


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = threads(), descriptors()
    yield
    assert (threads(), descriptors()) == before


# --- Before the run -------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["called", "compiled"])
def test_under_jit(compiled, stage):
    stream = metagrad.Stream(small.stacked(STEPS))
    call = compiled if stage == "compiled" else small.step.metagradient(small.outer)
    with pytest.raises(TypeError, match="cannot be a part of another program: call it outside"):
        jax.jit(lambda state, meta: call(state, meta, stream).value)(*small.arguments())


def test_a_fused_run_takes_no_stream():
    mg = small.step.metagradient(small.outer, runtime="fused")
    with pytest.raises(TypeError, match='runtime="fused" is one program, which needs all batches'):
        mg(*small.arguments(), metagrad.Stream(small.stacked(STEPS)))


@pytest.mark.parametrize("option", [{"resume_dir": "somewhere"}, {"verify": "replay"}])
def test_a_fused_run_has_no_options_of_streamed_runs(option):
    (name,) = option
    mg = small.step.metagradient(small.outer, **option)
    with pytest.raises(ValueError, match=f"{name}=.* is for streamed runs"):
        mg(*small.arguments(), small.stacked(STEPS))
    with pytest.raises(ValueError, match=f"{name}=.* is for streamed runs"):
        small.step.metagradient(small.outer, runtime="fused", **option)


def test_a_place_for_gradients_that_are_not_computed():
    stream = metagrad.Stream(small.stacked(STEPS), gradients=lambda t, gradient: None)
    mg = small.step.metagradient(small.outer, ("meta", "state"))
    with pytest.raises(ValueError, match=r'and there are none: name them.*wrt="batches"'):
        mg(*small.arguments(), stream)
    with pytest.raises(ValueError, match="and there are none"):
        mg.lower(*small.arguments(), stream)


def changed(name):
    batches = small.stacked(STEPS)
    if name == "structure":
        return {"x": batches["x"]}
    if name == "shape":
        return batches | {"x": batches["x"][:, :3]}
    return batches | {"x": batches["x"].astype(np.float32)}


@pytest.mark.parametrize(
    "name, message",
    [
        ("structure", "a batch has the structure .* and this program was compiled for"),
        ("shape", r"batches\['x'\] of a batch is float64\[3, 6\], and this .* float64\[4, 6\]"),
        ("dtype", r"batches\['x'\] of a batch is float32\[4, 6\], and this .* float64\[4, 6\]"),
    ],
)
def test_another_stream_at_the_second_call(compiled, name, message):
    with pytest.raises(TypeError, match=message):
        compiled(*small.arguments(), metagrad.Stream(changed(name)))


def test_another_state_at_the_second_call(compiled):
    state, meta = small.arguments()
    stream = metagrad.Stream(small.stacked(STEPS))
    with pytest.raises(TypeError, match=r"state\['w'\] has shape \(5,\), and this program"):
        compiled(state | {"w": state["w"][:5]}, meta, stream)
    with pytest.raises(TypeError, match="meta has the structure"):
        compiled(state, {}, stream)


# --- During the run -------------------------------------------------------------------------------


class Broken(Exception):
    pass


def fails_at(t, sweep):
    """A loader that raises when batch t is asked for so many times."""
    asked = []

    def before(now):
        asked.append(now)
        if now == t and asked.count(t) == sweep:
            raise Broken(t)

    return small.Data(STEPS, before)


@pytest.mark.parametrize("t", [1, 5, 9])
@pytest.mark.parametrize("sweep", [1, 2])
def test_a_loader_that_raises(compiled, t, sweep):
    with pytest.raises(Broken) as caught:
        compiled(*small.arguments(), metagrad.Stream(fails_at(t, sweep)))
    assert caught.value.args == (t,)
    assert f"batch {t} of the stream" in caught.value.__notes__


def test_a_loader_that_raises_in_a_run_with_points(tmp_path):
    """The run goes on from its points when the loader is mended."""
    mg = small.step.metagradient(
        small.outer, ("meta", "batches"), resume_dir=tmp_path / "run", save_every=0
    )
    result = {}
    for name, data in [("broken", fails_at(4, 2)), ("mended", small.Data(STEPS))]:
        stream = metagrad.Stream(data, gradients=tmp_path / "gradients")
        compiled = plans.compiled(mg, *small.arguments(), stream, length=small.LENGTH)
        if name == "broken":
            with pytest.raises(Broken):
                compiled(*small.arguments(), stream)
            assert os.listdir(tmp_path / "run")
        else:
            result = compiled(*small.arguments(), stream)
    assert os.listdir(tmp_path / "run") == []
    whole = small.step.metagradient(small.outer, ("meta", "batches"))
    stream = metagrad.Stream(small.stacked(STEPS))
    expected = plans.compiled(whole, *small.arguments(), stream, length=small.LENGTH)
    assert small.bits(result) == small.bits(expected(*small.arguments(), stream))


def test_other_bytes_on_replay(compiled):
    class Changing(small.Data):
        def __getitem__(self, t):
            batch = super().__getitem__(t)
            if t == 4 and self.asked.count(t) > 1:
                batch["x"][0, 0] += 1e-9
            return batch

    with pytest.raises(
        RuntimeError, match=r"batches\['x'\] of batch 4 is not what the stream gave"
    ):
        compiled(*small.arguments(), metagrad.Stream(Changing(STEPS)))


def test_what_progress_raises_passes_through():
    def progress(now):
        if now.phase == "reversing":
            raise Broken

    mg = small.step.metagradient(small.outer, progress=progress)
    stream = metagrad.Stream(small.stacked(STEPS))
    compiled = plans.compiled(mg, *small.arguments(), stream, length=small.LENGTH)
    with pytest.raises(Broken):
        compiled(*small.arguments(), stream)


def test_what_a_function_of_gradients_raises_passes_through():
    def gradients(t, gradient):
        if t == 5:
            raise Broken

    mg = small.step.metagradient(small.outer, "batches")
    stream = metagrad.Stream(small.stacked(STEPS), gradients=gradients)
    compiled = plans.compiled(mg, *small.arguments(), stream, length=small.LENGTH)
    with pytest.raises(Broken) as caught:
        compiled(*small.arguments(), stream)
    assert caught.value.__notes__ == ["in Stream(gradients=...), called for batch 5"]


@pytest.mark.parametrize("sweep", [1, 2])
def test_ctrl_c(compiled, sweep):
    """It comes while the run waits for a batch, and while the batch is being read."""
    asked = []

    def before(t):
        asked.append(t)
        if t == 4 and asked.count(t) == sweep:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)

    with pytest.raises(KeyboardInterrupt):
        compiled(*small.arguments(), metagrad.Stream(small.Data(STEPS, before)))
        time.sleep(1)


@pytest.mark.parametrize("check_nans", [None, True])
@pytest.mark.parametrize("sink", ["memory", "function"])
def test_nans(check_nans, sink):
    mg = small.step.metagradient(small.outer, ("meta", "batches"), check_nans=check_nans)
    data = small.stacked(STEPS)
    data["x"][3, 0, 0] = np.nan
    gradients = (lambda t, gradient: None) if sink == "function" else None
    stream = metagrad.Stream(data, gradients=gradients)
    compiled = plans.compiled(mg, *small.arguments(), stream, length=small.LENGTH)
    kind = pytest.raises(FloatingPointError, match=_NAN)
    if check_nans is None:
        kind = pytest.warns(RuntimeWarning, match=_NAN)
    with kind:
        compiled(*small.arguments(), stream)


def test_jax_debug_nans():
    mg = small.step.metagradient(small.outer, check_nans=False)
    data = small.stacked(STEPS)
    with jax.debug_nans(True):
        compiled = plans.compiled(
            mg, *small.arguments(), metagrad.Stream(data), length=small.LENGTH
        )
        compiled(*small.arguments(), metagrad.Stream(data))
        data["x"][3, 0, 0] = np.nan
        with pytest.raises(FloatingPointError, match="a NaN or infinity in value, the gradient"):
            compiled(*small.arguments(), metagrad.Stream(data))


_NAN = r"a NaN or infinity in value, .*the gradient of batches\['x'\]"


def test_which_queries_are_not_finite():
    outer = lambda state: jnp.stack([jnp.sum(state["w"]), (jnp.sum(state["w"]) * 1e200) ** 2])
    mg = small.step.metagradient(outer, "batches")
    stream = metagrad.Stream(small.stacked(STEPS))
    compiled = plans.compiled(mg, *small.arguments(), stream, length=small.LENGTH)
    with pytest.warns(RuntimeWarning, match=r"value, the gradient of batches\['x'\] \(query 1\)"):
        compiled(*small.arguments(), stream)
