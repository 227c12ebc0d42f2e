"""Manifests of exported files that are changed at one place, by hand or at random."""

from hypothesis import strategies as st
from jaxlib.mlir.dialects import stablehlo

from metagrad.runtime import jax_internals


def set_at(place, value):
    *outer, last = place

    def change(contents):
        for key in outer:
            contents = contents[key]
        contents[last] = value

    return change


def trusted(stored):
    """`artifacts.examine` without a process, for artifacts that are good."""
    modules = []
    for artifact in stored:
        with jax_internals.ir_context() as context:
            module = stablehlo.deserialize_portable_artifact(context, artifact)
            modules.append(str(module).encode())
    return modules


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from([2**31, 2**63, 2**70, -1, 0.5, 1e300, "float32", "int32", "state", "", "w"])
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["shape", "dtype", "path", "key", "x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


def places(value, at=()):
    """All places in JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*at, key)
        if isinstance(inner, (dict, list)):
            yield from places(inner, (*at, key))
