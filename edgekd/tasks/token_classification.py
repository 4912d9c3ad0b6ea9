"""One class for each token of each sample."""

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


def token_cross_entropy(
    student_logits: Float[Tensor, "batch tokens classes"],
    labels: Int[Tensor, "batch tokens"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Cross-entropy of the labels, in nats per token; tokens labelled -100 do not count.

    Source: https://pytorch.org/docs/stable/generated/torch.nn.functional.cross_entropy.html
    """
    logits, targets = counted(student_logits.float(), labels, -1)
    summed = F.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="sum")
    return summed / max(1, len(targets))


def token_accuracy(
    logits: Float[Tensor, "samples tokens classes"], labels: Int[Tensor, "samples tokens"]
) -> float:
    """Share of the tokens that count whose largest logit is the label's (0-1)."""
    found, targets = counted(logits, labels, -1)
    return float((found.argmax(1) == targets).double().mean())


def agreement(reference: Tensor, outputs: Tensor, labels: Tensor | None) -> float | None:
    """Share of the tokens that count with the same largest class (0-1)."""
    return same_class(reference, outputs, labels, -1) if reference.ndim == 3 else None


def label_fault(shape: tuple[int | None, ...], labels: Tensor) -> Fault | None:
    """What is wrong with `labels`: a class, or -100, for each token."""
    if len(shape) != 3:
        told = "outputs batch x tokens x classes, and labels batch x tokens"
        return shape_fault(labels, told, "give the student a class for each token")
    fault = place_fault(shape[:2], labels, "tokens")
    if fault is None and shape[2] is not None:
        fault = class_fault(labels, shape[2], ignored=True)
    return fault


_rows = partial(counted, classes_axis=-1)

TASK = Task(
    name="token-classification",
    hard_loss=token_cross_entropy,
    metrics={
        "token_accuracy": Metric(token_accuracy),
        "f1_macro": of_classes("f1_score", _rows, average="macro"),
    },
    agree=agreement,
    agreed="same class, of tokens",
    label_fault=label_fault,
    trial=((2, 4, 3), torch.zeros(2, 4, dtype=torch.int64)),
    classes_axis=-1,
    has_places=True,
)
