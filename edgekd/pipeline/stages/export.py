"""Write the network as a file of each target's format, in each precision it takes."""

from __future__ import annotations

from dataclasses import replace

from edgekd.pipeline.candidates.export import export_candidates, refuse_fp16_overflow
from edgekd.pipeline.candidates.state import PipelineState
from edgekd.system.store import Run


def step(state: PipelineState, run: Run) -> PipelineState:
    """The work with an artifact, or a reason why there is none, for every open row."""
    held = refuse_fp16_overflow(state.candidates, state)
    return replace(state, candidates=tuple(export_candidates(held, state, run)))
