"""The options of `TrainStep.metagradient` that say how a run is done."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Literal, TypeAlias, TypedDict

from metagrad.api.approximations import Approximation
from metagrad.api.progress import ProgressOption

Runtime: TypeAlias = Literal["auto", "fused", "streamed"]
Remat: TypeAlias = Literal["blocks", "none", "auto"]

RUNTIMES = ("auto", "fused", "streamed")

REMATS = ("blocks", "none", "auto")
"""The values of the option `remat`."""

DirectionOfRun: TypeAlias = Literal["reverse", "forward", "auto"]

DIRECTIONS = ("reverse", "forward", "auto")


class RunOptions(TypedDict, total=False):
    """For type checkers: the keywords, which `TrainStep.metagradient` documents."""

    schedule: Any
    runtime: Runtime
    check_nans: bool | None
    progress: ProgressOption
    resume_dir: str | os.PathLike | None
    save_every: float
    verify: Literal["replay"] | None
    mode: DirectionOfRun
    approximation: Approximation | tuple[Approximation, ...] | None
    remat: Remat


@dataclasses.dataclass(frozen=True)
class StreamOptions:
    """The options of `TrainStep.metagradient` that a streamed run has.

    Attributes:
      schedule: of the segments; None chooses one.
      check_nans, progress, resume_dir, save_every, verify: as the user gave them.
    """

    schedule: Any
    check_nans: bool | None
    progress: ProgressOption
    resume_dir: str | os.PathLike | None
    save_every: float
    verify: str | None


def check_run_options(runtime: Any, resume_dir: Any, save_every: Any, verify: Any) -> None:
    """Raises TypeError or ValueError for what an option does not take."""
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime={runtime!r} is none of {', '.join(map(repr, RUNTIMES))}")
    if resume_dir is not None and not isinstance(resume_dir, (str, os.PathLike)):
        raise TypeError(f"resume_dir must be a path or None, got {resume_dir!r}")
    if isinstance(save_every, bool) or not isinstance(save_every, (int, float)) or save_every < 0:
        raise ValueError(f"save_every={save_every!r} must be a number of seconds, at least 0")
    if verify not in (None, "replay"):
        raise ValueError(f'verify={verify!r} is neither None nor "replay"')
    if runtime == "fused":
        check_fused_options(resume_dir, verify)


def check_fused_options(resume_dir: Any, verify: Any) -> None:
    """Raises ValueError for the options of streamed runs, where a run is one program."""
    for name, value in (("resume_dir", resume_dir), ("verify", verify)):
        if value is not None:
            raise ValueError(
                f"{name}={value!r} is for streamed runs, which the host walks. This one is a "
                'single program: use runtime="streamed", which takes stacked arrays too, or give '
                "the batches as a metagrad.Stream."
            )


def check_mode(mode: Any, schedule: Any, runtime: Any, resume_dir: Any, verify: Any) -> None:
    """Raises ValueError for no mode, or an option that a run in forward mode has not."""
    if mode not in DIRECTIONS:
        raise ValueError(f"mode={mode!r} is none of {', '.join(map(repr, DIRECTIONS))}")
    if mode != "forward":
        return
    options = {"schedule": schedule, "resume_dir": resume_dir, "verify": verify}
    if runtime == "streamed":
        options["runtime"] = runtime
    for name, value in options.items():
        if value is not None:
            raise ValueError(
                f"{name}={value!r} with mode='forward': {_WHY_NOT_FORWARD[name]} Leave it out, or "
                "use mode='reverse'."
            )


_WHY_NOT_FORWARD = {
    "schedule": "a schedule says which states are stored and which steps are run again, and in "
    "forward mode nothing is stored and every step is run once.",
    "resume_dir": "a run in forward mode is a single program, and cannot be resumed.",
    "verify": "no step is run again in forward mode, so there is no replay to compare.",
    "runtime": "a run in forward mode is a single program.",
}


def check_remat(remat: Any, ad: str) -> None:
    """Raises ValueError for what the option `remat` does not take."""
    if remat not in REMATS:
        raise ValueError(
            f"remat={remat!r} is none of {', '.join(map(repr, REMATS))}. For a policy of your own "
            "put jax.checkpoint(..., policy=...) around the layers of the loss: it is honoured."
        )
    if remat == "blocks" and ad == "enzyme":
        raise ValueError(
            'remat="blocks" has JAX differentiate the losses, which computes again what Enzyme '
            "would keep, and the step was compiled with ad='enzyme'. Use ad='auto'."
        )
