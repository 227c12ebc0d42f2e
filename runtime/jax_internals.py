"""Every private name of JAX that metagrad uses, with its reason and its version cases.

Nobody else imports `jax._src` or reads a private attribute of a JAX object
(tests/test_jax_internals.py). What has a public name (`jax.extend.core`, `jax.interpreters.mlir`,
...) is used by that name and is not here.

It is in the runtime, the lowest of the four folders, so that each of them may import it.

Moving to a new JAX starts here. A name that moved gets a version case. A function that is gone is
`None`, and a table leaves out the row that names it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
from jax._src import config as _config
from jax._src import core as _core
from jax._src import distributed as _distributed
from jax._src import source_info_util as _source_info_util
from jax._src import tree_util as _tree_util
from jax._src import xla_bridge as _xla_bridge
from jax._src.api_util import fun_sourceinfo as _fun_sourceinfo
from jax._src.callback import io_callback_p, pure_callback_p
from jax._src.debugging import debug_callback_p, debug_effect, debug_print_p
from jax._src.interpreters import batching as _batching
from jax._src.interpreters import mlir as _mlir
from jax._src.interpreters import partial_eval as _partial_eval
from jax._src.lax import lax as _lax
from jax._src.lax import linalg as _linalg
from jax._src.lib import hlo as _hlo
from jax._src.state.types import RefEffect
from jax.extend.core import Jaxpr, JaxprEqn, Primitive
from jax.interpreters import mlir
from jaxlib import _jax
from jaxlib.mlir import ir

__all__ = [
    "NamedAxisEffect",
    "RefEffect",
    "call_hi_primitive_p",
    "constants_to_operands",
    "coordination_client",
    "cotangents_of_rule",
    "custom_call",
    "debug_callback_p",
    "debug_effect",
    "debug_print_p",
    "default_platform",
    "equality_errors",
    "frames",
    "function",
    "has_hi_primitive",
    "hlo_text",
    "host_callbacks",
    "io_callback_p",
    "ir_constants",
    "ir_context",
    "is_live",
    "is_traced_call",
    "is_user_file",
    "keep_when_lowered",
    "key_implementation",
    "kind_of_hi_primitive",
    "lower_function",
    "lower_with_rules",
    "one_minus_square_p",
    "polynomial_p",
    "portable_artifact",
    "prepare_lapack",
    "pure_callback_p",
    "setting",
    "settings",
    "source_of",
    "unstack_p",
    "user_frames",
    "varying_axes",
]

# --- Settings -------------------------------------------------------------------------------------


def settings() -> Hashable:
    """A hashable value of all settings of JAX that what is traced depends on.

    These are double precision, the precision of products, whether random bits are partitionable,
    the mesh, and so on: all that `jax.jit` has in the keys of its cache. `jax.jit` leaves out
    what kind of key `jax.random.key` and `jax.random.PRNGKey` make; a step may make one.
    """
    return (
        _config.trace_context(),
        _config.default_prng_impl.value,
        _config.enable_custom_prng.value,
    )


def setting(name: str) -> Any:
    """The value of a setting in this thread and context.

    Not private, but without a type: `jax.config.read` gives the value outside of all contexts.
    """
    return getattr(jax.config, name)


def coordination_client() -> Any:
    """The client of the service through which the processes of `jax.distributed` find each other.

    What is public of it (`jax.experimental.multihost_utils`) takes the devices, and so has to wait
    for what they are computing.

    Raises:
      RuntimeError: `jax.distributed.initialize` has not been called.
    """
    client = _distributed.global_state.client
    if client is None:
        raise RuntimeError(
            "the arrays are on the devices of several processes, and jax.distributed.initialize() "
            "was not called in this one"
        )
    return client


def is_traced_call() -> bool:
    """Whether what is called now is traced or transformed, and not computed at once.

    It is under `jax.jit`, `jax.grad` and so on, whatever the arguments are.
    """
    return not isinstance(_core.trace_ctx.trace, _core.EvalTrace)


def is_live(tracer: jax.core.Tracer) -> bool:
    """Whether the function that a traced value belongs to is being traced now.

    JAX's own mark of a trace that is over is not set for jaxprs (a TODO in its source), so the
    traces around the present one are looked through.
    """
    trace = _core.trace_ctx.trace
    while trace is not None:
        if tracer._trace is trace:
            return True
        trace = getattr(trace, "parent_trace", None)
    return False


def is_batched(value: Any) -> bool:
    """Whether a value inside of a function under `jax.vmap` has the mapped axis."""
    return isinstance(value, _batching.BatchTracer)


def default_platform() -> str:
    """The default device's platform as lowerings name it: "cpu", "cuda", "rocm", "tpu".

    `jax.default_backend()` says "gpu" on CUDA and on ROCm, and no lowering has that name.
    """
    return _xla_bridge.canonicalize_platform(_xla_bridge.default_backend())


# --- Effects and primitives that have no public name ----------------------------------------------

# Imported above: the effects and primitives of `jax.debug.print`, `jax.debug.callback`,
# `io_callback` and `pure_callback`, by which prints and other effects are told apart, and the
# effect of a mutable reference.

NamedAxisEffect = _core.NamedAxisEffect
"""The effect of a collective: says over which axis."""

unstack_p = _lax.unstack_p
"""`jnp.unstack`; `jax.lax` names its inverse `stack_p` and not this one."""


one_minus_square_p: Primitive | None = getattr(_lax, "one_minus_square_p", None)
polynomial_p: Primitive | None = getattr(_lax, "polynomial_p", None)
"""From 0.12 on, with derivatives of their own. `jax.lax` has the functions, not the primitives."""


def _hi_primitive() -> Primitive | None:
    try:
        return importlib.import_module("jax._src.hijax").call_hi_primitive_p
    except (ModuleNotFoundError, AttributeError):
        return None


call_hi_primitive_p = _hi_primitive()
"""A function with its own rules as one equation (`jnp.searchsorted`, `jnp.frexp` from 0.12 on)."""


def kind_of_hi_primitive(params: dict) -> type:
    """Which function an equation is, from its parameters: JAX has a class for each."""
    return type(params["_prim"])


def has_hi_primitive(eqn: JaxprEqn) -> bool:
    """Whether JAX rewrites an equation before it is lowered.

    It does if the equation is a hi primitive, or has one in its functions.
    """
    if call_hi_primitive_p is None:
        return False
    return eqn.primitive.is_high(*(atom.aval for atom in eqn.invars), **eqn.params)


def keep_when_lowered(primitive: Primitive) -> Primitive:
    """Marks a primitive of ours that lowers the functions in its parameters itself.

    From 0.12 on JAX rewrites an equation before it is lowered if a function in its parameters has a
    hi primitive.
    """
    primitive.is_high = lambda *avals, **params: False  # type: ignore[method-assign]
    return primitive


def function(module: str, name: str) -> Callable | None:
    """A function with a custom rule, or None where this JAX has none of that name.

    The rules are told apart by identity (capabilities/true_rules.py), and many belong to the
    function inside a public one.

    Args:
      module: the name of a module, below `jax._src`.
      name: the function's name in it.
    """
    try:
        return getattr(importlib.import_module(f"jax._src.{module}"), name, None)
    except ModuleNotFoundError:
        return None


# --- Jaxprs ---------------------------------------------------------------------------------------

constants_to_operands: Callable[[Jaxpr], Jaxpr] = _partial_eval.convert_constvars_jaxpr
"""The jaxpr with its constants as its first operands.

From 0.12 on it is public, as `jax.interpreters.partial_eval.convert_constvars_jaxpr`."""


def source_of(function: Callable) -> str | None:
    """How a traced function names its source in `debug_info`, to compare with."""
    return _fun_sourceinfo(function)


# --- Types and rules


def varying_axes(aval: Any) -> frozenset[str]:
    """The axes of the `shard_map` around along which a value of this type may differ."""
    return frozenset(getattr(getattr(aval, "manual_axis_type", None), "varying", ()))


def cotangents_of_rule(results: Any) -> tuple[list, Callable[[list], Any]]:
    """What the backward half of a `custom_vjp` returned, and how it returns other cotangents.

    From 0.12 on the cotangents come with a dict of what the rule logs, which only
    `jax.vjp(...)[1].with_logs` reads; or None.
    """
    if isinstance(results, tuple):
        return results[0], lambda cotangents: (cotangents, None)
    return results, lambda cotangents: cotangents


# --- Source lines ---------------------------------------------------------------------------------

is_user_file: Callable[[str], bool] = _source_info_util.is_user_filename
"""Whether a file is the user's: not JAX's, and not ours (`register_exclusion`, which is public)."""


def frames(eqn: JaxprEqn) -> list:
    """All frames in the traceback of an equation, JAX's too, innermost first."""
    traceback = eqn.source_info.traceback
    return [] if traceback is None else list(traceback.frames)


def user_frames(eqn: JaxprEqn) -> list:
    """The user's frames in the traceback of an equation, innermost first."""
    return list(_source_info_util.user_frames(eqn.source_info.traceback))


# --- Pytrees and keys -----------------------------------------------------------------------------

equality_errors = _tree_util.equality_errors
"""Where two pytrees differ in structure, in words."""


def key_implementation(dtype: Any) -> str:
    """The name of a key dtype's generator. `jax.random.key_impl` asks for an array."""
    return dtype._impl.name


# --- Lowering -------------------------------------------------------------------------------------

ir_constants = _mlir.ir_consts
"""Values in a module for the constants of a jaxpr that is lowered in place."""

custom_call = _mlir.custom_call
"""A `stablehlo.custom_call` with the API version and layouts that JAX gives its own."""


def ir_context() -> ir.Context:
    """A context of our own with JAX's dialects.

    `jax.interpreters.mlir.make_ir_context` hands one context out up to ten times from 0.12 on. Ours
    reads ops of unregistered dialects, which JAX's own must go on to refuse.
    """
    create = getattr(_mlir, "_create_ir_context", mlir.make_ir_context)
    return create()


def portable_artifact(module: ir.Module, version: str) -> bytes:
    """A module as an artifact that each StableHLO from `version` on reads.

    `jaxlib.mlir.dialects.stablehlo.serialize_portable_artifact` refuses operations of CHLO, which
    JAX's lowerings are full of. What `jax.export` writes is of a version that depends on the JAX
    that writes it.
    """
    return _jax.mlir.serialize_portable_artifact(module, version, True)


prepare_lapack: Callable[[], None] = _linalg.initialize_lapack
"""Tells jaxlib where LAPACK's functions are. JAX does so where it lowers one of them.

A program from a file calls them in a process that may not have lowered any, and would end it."""


def lower_with_rules(
    traced: jax.stages.Traced, rules: Sequence[tuple], platform: str
) -> jax.stages.Lowered:
    """Lowers a traced function for a platform, with lowering rules that go before JAX's own."""
    # JAX's annotation says one rule; it takes any number.
    parameters = mlir.LoweringParameters(override_lowering_rules=tuple(rules))  # type: ignore[arg-type]
    return traced.lower(lowering_platforms=(platform,), _private_parameters=parameters)


def hlo_text(compiled: jax.stages.Compiled) -> str:
    """The optimised HLO with all its constants; `Compiled.as_text` leaves the large ones out."""
    options = _hlo.HloPrintOptions()
    options.print_large_constants = True
    (module,) = compiled.runtime_executable().hlo_modules()  # type: ignore[union-attr]
    return module.to_string(options)


def host_callbacks(lowered: jax.stages.Lowered) -> tuple[Callable, ...]:
    """The host functions that a lowered module calls, by the index in its calls."""
    return tuple(lowered._lowering.compile_args["host_callbacks"])


def lower_function(ctx: mlir.LoweringRuleContext, name: str, jaxpr: Any) -> str:
    """Lowers a closed jaxpr to a function of the module, and gives its symbol.

    Raises:
      NotImplementedError: JAX is told to pass a jaxpr's constants as operands.
    """
    if _core.jaxpr_const_args(jaxpr.jaxpr):
        raise NotImplementedError(
            "metagrad needs jax_use_simplified_jaxpr_constants to be off, which is JAX's default"
        )
    options: dict[str, Any] = {"num_const_args": 0, "in_avals": jaxpr.in_avals}
    if jax.__version_info__ >= (0, 11):
        options["out_avals"] = jaxpr.out_avals
    lowered: Any = mlir.lower_jaxpr_to_fun(ctx.module_context, name, jaxpr, [], **options)
    return lowered.name.value
