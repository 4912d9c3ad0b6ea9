"""Export the networks in each target's format and schemes."""

from __future__ import annotations

from dataclasses import replace

from edgekd.pipeline.candidates.export import export_candidates, refuse_fp16_overflow
from edgekd.pipeline.candidates.state import PipelineState
from edgekd.system.store import Run


def step(state: PipelineState, run: Run) -> PipelineState:
    """The state with an artifact, or the reason why there is none, for every open candidate."""
    candidates = refuse_fp16_overflow(state.candidates, state)
    return replace(state, candidates=tuple(export_candidates(candidates, state, run)))
