"""The flags with which XLA compiles fast.

Its programs then run slowly. This is for tests, which run each program once.
"""

import jaxlib.version

FLAGS = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
if jaxlib.version.__version_info__ < (0, 12):
    # XLA ends the process on a flag that it does not know, and knows this one no longer.
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")

FAST = " ".join(FLAGS)
