"""The tier on the device."""

from __future__ import annotations

from metagrad.runtime.tiers.kept_arrays import KeptArrays


class DeviceTier(KeptArrays):
    """Slots that keep the arrays where they were computed."""

    def __init__(self, budget: int | None = None):
        super().__init__("device", budget)
