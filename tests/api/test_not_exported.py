"""What cannot be exported, and where it cannot be written."""

import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metagrad
from metagrad.runtime.exported import container

pytestmark = pytest.mark.usefixtures("double")

XS = np.linspace(-1, 1, 6).reshape(3, 2)


def lowered(step, outer=jnp.sum, **options):
    mg = metagrad.compile(step, **options).metagradient(outer)
    return mg.lower(np.ones(2), 0.1, XS)


def test_calls_of_the_host(tmp_path):
    def printing(w, rate, x):
        jax.debug.print("{}", x)
        return w - rate * x

    with pytest.raises(ValueError, match=r"printing or sum calls the host .*Take the calls out"):
        lowered(printing).compile().export(tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_an_aux_that_no_file_holds(tmp_path):
    def odd(w, rate, x):
        return w - rate * x, {"a": [optax.ScaleState(), eqx.nn.Identity()]}

    with pytest.raises(TypeError, match=r"aux\['a'\]\[1\] is a Identity, .* return dicts"):
        lowered(odd, has_aux=True).compile().export(tmp_path / "run")


def test_a_file_that_is_there(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(FileExistsError, match=r"overwrite=True"):
        container.write(tmp_path / "run", {}, {})
    assert (tmp_path / "run").read_text() == "mine"
    container.write(tmp_path / "run", {"a": 1}, {}, overwrite=True)
    assert container.read(tmp_path / "run").contents == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing/run'"):
        container.write(tmp_path / "missing" / "run", {}, {})
    with pytest.raises(IsADirectoryError):
        container.write(tmp_path, {}, {}, overwrite=True)


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    container.write(tmp_path / "run", {"old": True}, {})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*run'"):
        container.write(tmp_path / "run", {"old": False}, {"x": bytes(100)}, overwrite=True)
    assert container.read(tmp_path / "run").contents == {"old": True}
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
