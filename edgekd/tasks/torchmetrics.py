"""Figures that torchmetrics measures, as metrics of ours; it is imported when one is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from edgekd.system.packages import need
from edgekd.tasks.task import TORCHMETRICS, Metric


def of_classes(
    name: str,
    rows_of: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = lambda logits, labels: (
        logits,
        labels,
    ),
    *,
    probabilities: bool = False,
    smaller_is_better: bool = False,
    share: bool = True,
    **how: Any,
) -> Metric:
    """`torchmetrics.functional.classification.multiclass_NAME` of logits and labels.

    Args:
        rows_of: logits and labels as rows x classes and rows.
        probabilities: whether it looks at those, not at the largest class alone.
        how: its further arguments.

    Source: https://lightning.ai/docs/torchmetrics/stable/
    """

    def measure(logits: Tensor, labels: Tensor) -> float:
        functional = need("torchmetrics.functional.classification", extra=TORCHMETRICS[1])
        given, targets = rows_of(logits, labels)
        given = given.float()
        seen = given.softmax(1) if probabilities else given
        function = getattr(functional, f"multiclass_{name}")
        return float(function(seen, targets, num_classes=given.shape[1], **how))

    return Metric(measure, smaller_is_better=smaller_is_better, share=share, package=TORCHMETRICS)


def of_numbers(
    name: str,
    aligned: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    *,
    smaller_is_better: bool = False,
) -> Metric:
    """`torchmetrics.functional.NAME` of outputs and targets of one shape; the mean over columns.

    Source: https://lightning.ai/docs/torchmetrics/stable/
    """

    def measure(outputs: Tensor, targets: Tensor) -> float:
        functional = need("torchmetrics.functional", extra=TORCHMETRICS[1])
        ours, theirs = aligned(outputs, targets)
        return float(getattr(functional, name)(ours, theirs).mean())

    return Metric(
        measure,
        smaller_is_better=smaller_is_better,
        share=False,
        takes="numbers",
        package=TORCHMETRICS,
    )
