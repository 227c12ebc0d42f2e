"""The native planner and simulator, for type checkers (runtime/schedules/native/bindings.cpp)."""

from typing import Any

import numpy as np

def plan_lazy_kary(steps: int, k: int, rebuild: int, keep: bool) -> dict[str, Any]: ...
def plan_binomial(steps: int, slots: int, rebuild: int, keep: bool) -> dict[str, Any]: ...
def plan_periodic(steps: int, every: int, rebuild: int, keep: bool) -> dict[str, Any]: ...
def plan_tree(
    steps: int,
    state_slots: int,
    gradient_slots: int,
    advance: float,
    kept: float,
    update: float,
    save: float,
) -> dict[str, Any]: ...
def priced_tree_seconds(
    steps: int,
    state_slots: int,
    gradient_slots: int,
    advance: float,
    kept: float,
    update: float,
    save: float,
) -> tuple[float, float]: ...
def search(
    steps: int,
    advance: float,
    kept: float,
    update: float,
    save: float,
    rest: float,
    bytes: int,
    state_bytes: int,
    gradient_bytes: int,
    keep: bool,
    slack: float,
) -> tuple[int, int]: ...
def two_level_seconds(
    steps: int,
    fast_slots: int,
    slow_slots: int,
    write: float,
    read: float,
    reverse: float,
    overlap: bool,
    copies: bool,
) -> float: ...
def plan_two_levels(
    steps: int,
    fast_slots: int,
    slow_slots: int,
    write: float,
    read: float,
    reverse: float,
    overlap: bool,
) -> tuple[dict[str, Any], int]: ...
def simulate(
    steps: int,
    state_slots: int,
    gradient_slots: int,
    load: np.ndarray,
    segment: np.ndarray,
    run_steps: np.ndarray,
    run_save: np.ndarray,
    run_keep: np.ndarray,
    run_reuse: np.ndarray,
    gradient: np.ndarray,
) -> tuple[int, int]: ...
