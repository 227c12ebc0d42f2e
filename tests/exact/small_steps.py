"""A few steps of training on small data, checked against JAX under one schedule."""

import runs
from unrolled import assert_exact

from metagrad import LazyKary

EVERYTHING = ("meta", "state", "batches")
SCHEDULE = LazyKary(2)


def check(step, state, *, T=5, wrt=EVERYTHING, outer=runs.outer, batches=None, **options):
    batches = runs.data(T) if batches is None else batches
    return assert_exact(step, outer, wrt, state, runs.meta(), batches, schedule=SCHEDULE, **options)


def plain(gradient):
    return check(runs.sgd(gradient), {"params": runs.params()})
