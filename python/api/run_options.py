"""The options of `TrainStep.metagradient` that say how a run is done."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Literal, TypeAlias, TypedDict

from metagrad.api.progress import ProgressOption

Runtime: TypeAlias = Literal["auto", "fused", "streamed"]

RUNTIMES = ("auto", "fused", "streamed")


class RunOptions(TypedDict, total=False):
    """For type checkers: the keywords, which `TrainStep.metagradient` documents."""

    schedule: Any
    runtime: Runtime
    check_nans: bool | None
    progress: ProgressOption
    resume_dir: str | os.PathLike | None
    save_every: float
    verify: Literal["replay"] | None


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
