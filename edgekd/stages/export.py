"""Write the network as a file of each target's format, in each precision it takes."""

from __future__ import annotations

from dataclasses import replace

from edgekd.exporting import export_rows
from edgekd.store import Run
from edgekd.work import Work


def step(work: Work, run: Run) -> Work:
    """The work with an artifact, or a reason why there is none, for every open row."""
    return replace(work, rows=tuple(export_rows(work.rows, work, run)))
