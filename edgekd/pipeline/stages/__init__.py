"""The stages, one file each, in the order the pipeline folds over them.

A stage has one public function from typed inputs to typed outputs, which stands alone, and `step`,
which takes it from the work so far to the work after it.
"""

from __future__ import annotations

from typing import Protocol

from edgekd.pipeline.candidates.state import PipelineState
from edgekd.pipeline.stages import (
    benchmark,
    bundle,
    choose,
    distill,
    export,
    fold,
    ladder,
    prune,
    quantize,
    route,
    sensitivity,
    train,
    verify,
)
from edgekd.system.store import Run


class Stage(Protocol):
    """A module of this room."""

    def step(self, state: PipelineState, run: Run) -> PipelineState:
        """The work after this stage; it writes only in its own folder of `run`."""


STAGES: dict[str, Stage] = {
    "train": train,
    "distill": distill,
    "prune": prune,
    "fold": fold,
    "quantize": quantize,
    "export": export,
    "verify": verify,
    "ladder": ladder,
    "sensitivity": sensitivity,
    "benchmark": benchmark,
    "choose": choose,
    "route": route,
    "bundle": bundle,
}
"""The stages by name, in order."""
