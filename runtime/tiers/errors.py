"""What can go wrong with slots."""

from __future__ import annotations

from metagrad.runtime.byte_sizes import format_bytes


class BudgetError(ValueError):
    """The slots do not fit the bytes that a tier may take."""


class SlotError(OSError):
    """A slot could not be written or read; the text says which, where, and what to do.

    `errno` is that of the system's error: ENOSPC for a full disk, ETIMEDOUT for a disk that does
    not answer, and so on.
    """


class DamagedSlotError(SlotError):
    """What was read from a slot is not what was written to it."""


def check_budget(tier: str, slots: int, slot_bytes: int, budget: int | None) -> None:
    """Compares what slots take with a budget.

    Args:
      tier: "device", "host" or "disk".
      slots: how many there are.
      slot_bytes: what each of them takes.
      budget: the most bytes that they may take together; None if there is no limit.

    Raises:
      BudgetError: they take more.
    """
    wanted = slots * slot_bytes
    if budget is None or wanted <= budget:
        return
    argument = {"device": "memory="}.get(tier, f"{tier}=")
    fits = budget // slot_bytes
    some = "1 slot" if slots == 1 else f"{slots} slots"
    raise BudgetError(
        f"{some} of {format_bytes(slot_bytes)} take {format_bytes(wanted)}, but the {tier} "
        f"tier may take {format_bytes(budget)}, which is {fits} of them. Give {argument} more, or "
        "use a schedule with fewer slots."
    )
