"""What a recipe's targets will make of its student, found before anything is trained."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from edgekd.conversion.lint import lint
from edgekd.evidence.candidate import Row
from edgekd.formats.inspection import READERS, read_graph
from edgekd.pipeline.candidates.state import Work
from edgekd.pipeline.plan import Plan
from edgekd.pipeline.run import begin
from edgekd.pipeline.stages import export, fold, quantize
from edgekd.system.progress import Tell, told_to_nobody
from edgekd.system.store import open_run


def preview(plan: Plan, tell: Tell = told_to_nobody) -> tuple[Row, ...]:
    """A row for every candidate that the recipe's targets take, from the student as it is at first.

    Its weights are the untrained ones; which operators a file has does not depend on them. Each row
    has its notes, with what can be done, or how its conversion failed. Nothing is kept.

    Raises:
        RecipeError: the data or the networks cannot be loaded, or are not what they must be.
    """
    with tempfile.TemporaryDirectory(prefix="edgekd-check-") as scratch:
        place = open_run(Path(scratch), plan.recipe.name, plan.recipe.seed, tell)
        work = begin(plan, place)
        rows = tuple(row for row in work.rows if row.open and row.network == "student")
        work = replace(work, rows=rows)
        work = fold.step(work, place) if plan.recipe.export.folds else work
        work = quantize.step(work, place)
        # Which operators a file has does not depend on how its scheme's ranges were found.
        work = replace(work, rows=tuple(row for row in work.rows if not row.beside))
        work = export.step(work, place)
        return tuple(replace(row, notes=_advice(row, work)) for row in work.rows)


def _advice(row: Row, work: Work) -> tuple[str, ...]:
    """What of a row's file will not run well on its target: in what way, why, and what to do."""
    if row.artifact is None or row.format not in READERS:
        return row.notes
    graph = read_graph(row.artifact.path, row.format)
    return tuple(
        f"{each.kind}: {each.count} of {each.operator}: {each.why}; to do: {each.fix}"
        for each in lint(graph, work.goal(row).target, row.scheme)
    )
