"""The cost model of large runs: what it reads from programs, and what follows from its numbers."""

import dataclasses
import itertools

import pytest

from benchmarks import cluster

HLO = """
%body.1 (p: f32[8]) -> f32[8] {
  %a = f32[8,16]{1,0} all-gather(%p), dimensions={0}
  %b = (f32[4]{0}, f64[2]{0}) all-reduce(%x, %y), to_apply=%add
}

ENTRY %main.2 (p: f32[8]) -> f32[8] {
  %c = f32[2]{0} reduce-scatter(%a), dimensions={0}
}
"""


def test_bytes_that_a_device_receives():
    """Of a gather all parts but its own; a sum goes around twice; a divided one once."""
    assert cluster.received(HLO, 4) == {
        "%body.1": 512 * 3 / 4 + 2 * (16 + 16) * 3 / 4,
        "ENTRY %main.2": 8 * 3,
    }


def test_more_hosts_take_less_time():
    model = cluster.Model(state=10**12, tokens=2**22, activations=20 * 10**9)
    rows = [cluster.row(model, cluster.H100_HOST, hosts, 1000) for hosts in (16, 32, 64)]
    assert [row["state"] for row in rows] == [10**12 // (8 * n) for n in (16, 32, 64)]
    for few, many in itertools.pairwise(rows):
        assert many["seconds"] < few["seconds"]
        assert 1.9 < few["step_seconds"] / many["step_seconds"] < 2.1


def test_a_slow_network_decides():
    model = cluster.Model(state=10**12, tokens=2**18, activations=20 * 10**9)
    slow = dataclasses.replace(cluster.H100_HOST, network_rate=1e9)
    costs = model.costs(slow, 32)
    assert costs.inner == pytest.approx(3.0 * model.gather_bytes(32) / 1e9)
    moments = 4 * model.state / (32 * 8) / slow.device_rate
    assert costs.vjp == pytest.approx(6.25 * model.gather_bytes(32) / 1e9 + moments)


def test_what_does_not_fit_says_so():
    model = cluster.Model(state=10**12, tokens=2**20, activations=20 * 10**9)
    assert "needs" in cluster.row(model, cluster.H100_HOST, 1, 1000)["problem"]
