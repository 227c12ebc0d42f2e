"""What a user holds: the decorator, the inner gradient, the metagradient and its stages."""

import os

from jax.extend import source_info_util

# A message about an equation names the user's line, not one of ours.
source_info_util.register_exclusion(os.path.dirname(__file__) + os.sep)
