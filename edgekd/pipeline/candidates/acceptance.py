"""Judge what an artifact's outputs are worth: on the test split, and on the worst of its slices."""

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
    """`agreement` with the metric of `outputs`, and the verdict of `accept` on it.

    Args:
        outputs: on the test split, its `count` samples, and behind it the validation split.
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
    # A metric of rounded figures: a drop of what is allowed and a rounding of it passes.
    if not drop <= accept.max_drop + ROUNDING * abs(against.metric):  # Not where it is NaN.
        side = "over" if metric.smaller_is_better else "under"
        return with_disagreement(
            agreement,
            f"{accept.metric} is {agreement.metric:.4f}, more than {accept.max_drop} {side} "
            f"the {whose}'s {against.metric:.4f}",
        )
    why = _slice_refusal(agreement, against, state, whose)
    return agreement if why is None else with_disagreement(agreement, why)


ROUNDING = 1e-12
"""Of float64, by some thousands: 0.98 - 0.95 is 0.03 and a rounding."""


def _slice_refusal(
    agreement: Agreement, against: Scored, state: PipelineState, whose: str
) -> str | None:
    """Why the worst slice loses more than `accept.slices` allows, or None."""
    accept = state.recipe.accept
    gate, metric = accept.slices, state.task.metrics[accept.metric]
    if gate is None:
        return None
    drops = {}
    for name, value in agreement.slices.items():
        before = against.slices.get(name)
        large = len(state.slices[name]) >= gate.min_count
        if value is not None and before is not None and large:
            drops[name] = metric.drop(value, before)
    worst = max(drops, key=lambda name: drops[name], default=None)
    if worst is None or drops[worst] <= gate.max_drop + ROUNDING:
        return None
    return (
        f"{accept.metric} of the slice {worst!r} ({len(state.slices[worst])} samples) is "
        f"{agreement.slices[worst]:.4f}, more than {gate.max_drop} worse than the {whose}'s "
        f"{against.slices[worst]:.4f}"
    )


def no_slices() -> Fault:
    """The fault of a recipe that judges slices of data that has none."""
    return Fault(
        what="There are no slices to judge.",
        at="accept.slices",
        got="data without slices",
        expected="groups of the test split, by name",
        fix="return edgekd.Data(..., slices={name: numbers of test samples}), "
        "or remove accept.slices",
    )
