"""Write the network as a file of each target's format, in each precision it takes."""

from __future__ import annotations

from dataclasses import replace

from edgekd.pipeline.candidates.export import export_rows, refused_in_half
from edgekd.pipeline.candidates.state import Work
from edgekd.system.store import Run


def step(work: Work, run: Run) -> Work:
    """The work with an artifact, or a reason why there is none, for every open row."""
    held = refused_in_half(work.rows, work)
    return replace(work, rows=tuple(export_rows(held, work, run)))
