"""The plan of a recipe as text, for `edgekd check`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekd.evidence.candidate import Candidate
    from edgekd.pipeline.plan import Plan
    from edgekd.recipe.schema import Recipe


def plan_lines(plan: Plan) -> Iterator[str]:
    """The plan of a recipe: stages, training, pruning, and the candidates of each target."""
    yield f"{plan.recipe.name} {plan.recipe.version}: {' -> '.join(plan.stages)}"
    yield from _distill_lines(plan.recipe)
    yield from _prune_lines(plan)
    for goal in plan.deployments:
        rows = [row for row in plan.candidates if row.target == goal.target.name]
        tries = ", ".join(row.name for row in rows if row.open) or "nothing"
        limits = {key: value for key, value in vars(goal.budget).items() if value is not None}
        budget = ", ".join(f"{key} {value:g}" for key, value in limits.items()) or "no budget"
        yield f"  {goal.target.name}: {tries}; {budget}"
        where = goal.target.device or "this host, since no device is given; latency is undecided"
        yield f"    runs on {where}{'' if goal.required else '; not required'}"
        yield from (f"    {row.scheme}: {row.detail}" for row in rows if not row.open)


def preview_lines(rows: Sequence[Candidate] | None) -> Iterator[str]:
    """What the targets make of the untrained student, candidate by candidate."""
    if rows is None:
        return
    yield "the untrained student:"
    for row in rows:
        graph = row.artifact.lineage if row.artifact else {}
        count = sum(graph.get("operators", {}).values())
        yield f"  {row.target} {row.name}: " + (
            row.detail
            if row.outcome
            else f"{count} operators, {graph.get('transposes', 0)} transposes"
            + ("" if row.notes else ", all of which the target runs well")
        )
        yield from (f"    {note}" for note in row.notes)


def _distill_lines(recipe: Recipe) -> Iterator[str]:
    """The losses of the student, and how its teachers are evaluated."""
    distill = recipe.distill
    if distill is None:
        return
    terms = []
    for loss in distill.losses:
        options = ", ".join(f"{name} {value}" for name, value in loss.options.items())
        layers = [each for each in (loss.student_layer, loss.teacher_layer) if each]
        details = ", ".join(filter(None, [" against ".join(map(str, layers)), options]))
        terms.append(f"{loss.weight:g} {loss.method}{f' ({details})' if details else ''}")
    yield f"  distill: {distill.epochs} epochs of {' + '.join(terms)}"
    teachers = [recipe.teacher.load] if recipe.teacher else []
    teachers += [each.load for each in distill.more_teachers]
    inner = any(loss.teacher_layer and loss.source == "teacher" for loss in distill.losses)
    if teachers and distill.needs_teacher:
        live = distill.teacher_outputs == "live" or inner
        views = f"once per view ({distill.views} views if the data augments)"
        when = "at every step" if live else f"{views}, cached as {distill.cache_format}"
        yield f"    evaluates {', '.join(teachers)} {when}"


def _prune_lines(plan: Plan) -> Iterator[str]:
    """What is removed from the student, how it recovers, and which targets profit."""
    from edgekd.pipeline.stages.prune import profits

    prune = plan.recipe.prune
    if prune is None:
        return
    what = {"structured": f"whole blocks of {prune.blocks}" if prune.blocks else "whole channels"}
    removed = what.get(prune.method, f"single weights ({prune.method})")
    recovers = f", then {prune.recover_epochs} epochs of recovery" if prune.recover_epochs else ""
    steps = f" in {prune.steps} steps" if prune.steps > 1 else ""
    yield f"  prune: {removed} to {prune.keep:g} of the {prune.measure}{steps}{recovers}"
    if prune.method != "structured":
        yield from (f"    {name}: {why}" for name, why in profits(plan.deployments).items())
