"""One class for each pixel of each image."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from edgekd.errors import Fault
from edgekd.tasks.task import (
    Metric,
    Task,
    class_fault,
    counted,
    place_fault,
    same_class,
    shape_fault,
)
from edgekd.tasks.torchmetrics import of_classes


def pixel_cross_entropy(
    student_logits: Float[Tensor, "batch classes height width"],
    labels: Int[Tensor, "batch height width"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Cross-entropy of the labels, in nats per pixel; pixels labelled -100 do not count.

    Source: https://pytorch.org/docs/stable/generated/torch.nn.functional.cross_entropy.html
    """
    logits, targets = counted(student_logits.float(), labels, 1)
    summed = F.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="sum")
    return summed / max(1, len(targets))


def pixel_accuracy(
    logits: Float[Tensor, "samples classes height width"],
    labels: Int[Tensor, "samples height width"],
) -> float:
    """Share of the pixels that count whose largest logit is the label's (0-1)."""
    found, targets = counted(logits, labels, 1)
    return float((found.argmax(1) == targets).double().mean())


def agreement(reference: Tensor, outputs: Tensor, labels: Tensor | None) -> float | None:
    """Share of the pixels that count with the same largest class (0-1)."""
    return same_class(reference, outputs, labels, 1) if reference.ndim == 4 else None


def label_fault(shape: tuple[int | None, ...], labels: Tensor) -> Fault | None:
    """What is wrong with `labels`: a class, or -100, for each pixel."""
    if len(shape) != 4:
        told = "outputs batch x classes x height x width, and labels batch x height x width"
        return shape_fault(labels, told, "give the student a class for each pixel")
    batch, classes, height, width = shape
    fault = place_fault((batch, height, width), labels, "height x width")
    if fault is None and classes is not None:
        fault = class_fault(labels, classes, ignored=True)
    return fault


_rows = partial(counted, classes_axis=1)

TASK = Task(
    name="segmentation",
    hard_loss=pixel_cross_entropy,
    metrics={
        "pixel_accuracy": Metric(pixel_accuracy),
        "mean_iou": of_classes("jaccard_index", _rows, average="macro"),
        "dice": of_classes("f1_score", _rows, average="macro"),
    },
    agree=agreement,
    agreed="same class, of pixels",
    label_fault=label_fault,
    trial=((2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)),
    classes_axis=1,
    has_places=True,
)
