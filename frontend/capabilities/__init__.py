"""Which JAX programs Enzyme differentiates exactly as JAX does.

The table, the check of a function against it, and how the function is then lowered.

table.py        what is proven of each primitive
true_rules.py   the custom rules that are true derivatives
check.py        `unproven`: a function against the table
overrides.py    `overrides`: the lowering rules that the table asks for
"""

from metagrad.frontend.capabilities.check import (
    CUSTOM_RULE,
    Unproven,
    active_results,
    unproven,
)
from metagrad.frontend.capabilities.overrides import overrides
from metagrad.frontend.capabilities.table import (
    BOTH,
    CAPABILITIES,
    STEPS,
    WITHOUT_DERIVATIVE,
    Capability,
)
from metagrad.frontend.capabilities.true_rules import TRUE_RULES, has_true_derivative, true_rule

__all__ = [
    "BOTH",
    "CAPABILITIES",
    "CUSTOM_RULE",
    "STEPS",
    "TRUE_RULES",
    "WITHOUT_DERIVATIVE",
    "Capability",
    "Unproven",
    "active_results",
    "has_true_derivative",
    "overrides",
    "true_rule",
    "unproven",
]
