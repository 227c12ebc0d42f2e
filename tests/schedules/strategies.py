"""Hypothesis strategies: schedules of ours, and numbers of steps that they meet."""

from hypothesis import strategies as st

from metagrad.runtime.schedules import Binomial, LazyKary, Periodic, StoreAll

keeping = st.one_of(
    st.tuples(st.just(True), st.integers(1, 6)),
    st.just((False, 1)),
)
schedules = st.one_of(
    st.builds(lambda k, o: LazyKary(k, *o), st.integers(2, 9), keeping),
    st.builds(lambda s, o: Binomial(s, *o), st.integers(1, 12), keeping),
    st.builds(lambda n, o: Periodic(n, *o), st.integers(1, 20), keeping),
    st.builds(StoreAll, st.booleans()),
)
steps = st.integers(1, 120)
