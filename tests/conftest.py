"""The tests compile hundreds of small programs and run each once: XLA is told to compile fast.

The flags are read when the backend starts, and then taken out of the environment again, so that processes which a test starts (the demo) are not slowed.
"""

import os

import jax

_FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"

_given = os.environ.get("XLA_FLAGS")
os.environ["XLA_FLAGS"] = f"{_FAST} {_given or ''}"
jax.devices()
if _given is None:
    del os.environ["XLA_FLAGS"]
else:
    os.environ["XLA_FLAGS"] = _given
