"""The acceptance criteria: the task metric of an artifact on the test split and on its slices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from edgekd.errors import Fault
from edgekd.evidence.agreement import Agreement, with_disagreement
from edgekd.pipeline.candidates.state import PipelineState, Scored
from edgekd.tasks.evaluate import by_slice


def apply_acceptance(
    agreement: Agreement, state: PipelineState, outputs: Mapping[str, Tensor], count: int
) -> Agreement:
    """`agreement` with the metric of `outputs`, and with the verdict of [accept].

    Args:
        outputs: those of the `count` test samples, followed by those of the validation samples.
    """
    accept = state.recipe.accept
    metric = state.task.metrics[accept.metric]
    values = outputs[state.student.signature.output_names[0]]
    targets = state.samples("test").labels()
    validation = state.samples("validation").labels()
    agreement = replace(
        agreement,
        metric=metric(values[:count], targets),
        validation_metric=metric(values[count:], validation),
        slices=by_slice(metric, values[:count], targets, state.slices),
        smaller_is_better=metric.smaller_is_better,
    )
    against = state.teacher_score or state.student_score
    if against is None or agreement.metric is None:
        return agreement
    whose = "teacher" if state.teacher_score else "student"
    drop = metric.drop(agreement.metric, against.metric)
    # A drop of exactly `max_drop` passes, whatever the rounding error of the difference.
    if not drop <= accept.max_drop + ROUNDING * abs(against.metric):  # A NaN fails.
        side = "over" if metric.smaller_is_better else "under"
        return with_disagreement(
            agreement,
            f"{accept.metric} is {agreement.metric:.4f}, more than {accept.max_drop} {side} "
            f"the {whose}'s {against.metric:.4f}",
        )
    why = _slice_refusal(agreement, against, state, whose)
    return agreement if why is None else with_disagreement(agreement, why)


ROUNDING = 1e-12
"""Relative, some thousand times that of float64: 0.98 - 0.95 is not exactly 0.03."""


def _slice_refusal(
    agreement: Agreement, against: Scored, state: PipelineState, whose: str
) -> str | None:
    """Why the worst slice fails `accept.slices`, or None."""
    accept = state.recipe.accept
    limits, metric = accept.slices, state.task.metrics[accept.metric]
    if limits is None:
        return None
    drops = {}
    for name, value in agreement.slices.items():
        before = against.slices.get(name)
        large = len(state.slices[name]) >= limits.min_count
        if value is not None and before is not None and large:
            drops[name] = metric.drop(value, before)
    worst = max(drops, key=lambda name: drops[name], default=None)
    if worst is None or drops[worst] <= limits.max_drop + ROUNDING:
        return None
    return (
        f"{accept.metric} of slice {worst!r} ({len(state.slices[worst])} samples) is "
        f"{agreement.slices[worst]:.4f}, more than {limits.max_drop} worse than the {whose}'s "
        f"{against.slices[worst]:.4f}"
    )


def no_slices() -> Fault:
    """The fault of a recipe with [accept] slices whose data has no slices."""
    return Fault(
        what="The recipe has acceptance criteria for slices, but the data has no slices.",
        at="accept.slices",
        got="data without slices",
        expected="named groups of test samples",
        fix="return edgekd.Data(..., slices={name: indices of test samples}), "
        "or remove accept.slices",
    )
