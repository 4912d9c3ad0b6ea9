"""The stages, one file each, in the order the pipeline folds over them.

Each stage has a function `step` from the pipeline's state to the state after it. What a stage does
without that state lies in the rooms below, as a public function.
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
        """The state after this stage, which writes only into its own folder of `run`."""


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
