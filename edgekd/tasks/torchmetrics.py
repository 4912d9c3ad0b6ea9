"""Metrics computed by torchmetrics, which is imported when one is measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from edgekd.system.packages import need
from edgekd.tasks.task import TORCHMETRICS, Metric


def class_metric(
    name: str,
    rows_of: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = lambda logits, labels: (
        logits,
        labels,
    ),
    *,
    probabilities: bool = False,
    smaller_is_better: bool = False,
    share: bool = True,
    **options: Any,
) -> Metric:
    """`torchmetrics.functional.classification.multiclass_NAME` of logits and labels.

    Args:
        rows_of: returns logits and labels as rows x classes and rows.
        probabilities: whether it takes probabilities instead of logits.
        options: further arguments of the function.

    Source: https://lightning.ai/docs/torchmetrics/stable/
    """

    def measure(logits: Tensor, labels: Tensor) -> float:
        functional = need("torchmetrics.functional.classification", extra=TORCHMETRICS[1])
        scores, targets = rows_of(logits, labels)
        scores = scores.float()
        scores = scores.softmax(1) if probabilities else scores
        function = getattr(functional, f"multiclass_{name}")
        return float(function(scores, targets, num_classes=scores.shape[1], **options))

    return Metric(measure, smaller_is_better=smaller_is_better, share=share, package=TORCHMETRICS)


def number_metric(
    name: str,
    aligned: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    *,
    smaller_is_better: bool = False,
) -> Metric:
    """`torchmetrics.functional.NAME` of outputs and targets of one shape, averaged over columns.

    Args:
        aligned: returns outputs and targets as samples x numbers.

    Source: https://lightning.ai/docs/torchmetrics/stable/
    """

    def measure(outputs: Tensor, targets: Tensor) -> float:
        functional = need("torchmetrics.functional", extra=TORCHMETRICS[1])
        return float(getattr(functional, name)(*aligned(outputs, targets)).mean())

    return Metric(
        measure,
        smaller_is_better=smaller_is_better,
        share=False,
        takes="numbers",
        package=TORCHMETRICS,
    )
