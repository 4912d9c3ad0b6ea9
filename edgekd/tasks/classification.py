"""One class for each sample."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from edgekd.errors import Fault
from edgekd.tasks.task import Metric, Task, class_fault, same_class, shape_fault
from edgekd.tasks.torchmetrics import of_classes


def cross_entropy(
    student_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Cross-entropy of the labels under the student, in nats per sample.

    Args:
        label_smoothing: share of the probability spread over all classes (0-1).

    Source: https://pytorch.org/docs/stable/generated/torch.nn.functional.cross_entropy.html
    """
    return F.cross_entropy(student_logits.float(), labels, label_smoothing=label_smoothing)


def accuracy(logits: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]) -> float:
    """Share of samples whose largest logit is the label's (0-1)."""
    return float((logits.argmax(1) == labels).double().mean())


def balanced_accuracy(
    logits: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]
) -> float:
    """Mean over the labels present of the accuracy on each (0-1)."""
    right = (logits.argmax(1) == labels).double()
    return float(torch.stack([right[labels == label].mean() for label in labels.unique()]).mean())


def agreement(reference: Tensor, outputs: Tensor, labels: Tensor | None) -> float | None:
    """Share of samples with the same largest class (0-1); None where these are no classes."""
    if reference.ndim != 2 or not reference.is_floating_point():
        return None
    return same_class(reference, outputs, labels, -1)


def label_fault(shape: tuple[int | None, ...], labels: Tensor) -> Fault | None:
    """What is wrong with `labels`: class numbers, or probabilities as many as classes."""
    classes = shape[-1]
    if len(shape) != 2 or classes is None:
        return None  # Whatever the network gives is tried with the losses.
    if labels.is_floating_point():
        fits = labels.ndim == 2 and labels.shape[1] == classes
        told = f"batch, whole numbers; or batch x {classes} probabilities"
        return None if fits else shape_fault(labels, told, "give each sample's class as an int64")
    if labels.ndim != 1:
        return shape_fault(labels, "batch", "give each sample one class, not one-hot")
    return class_fault(labels, classes, ignored=False)


TASK = Task(
    name="classification",
    hard_loss=cross_entropy,
    metrics={
        "accuracy": Metric(accuracy),
        "balanced_accuracy": Metric(balanced_accuracy),
        "top5_accuracy": of_classes("accuracy", average="micro", top_k=5),
        "f1_macro": of_classes("f1_score", average="macro"),
        "auroc": of_classes("auroc", probabilities=True),
        "average_precision": of_classes("average_precision", probabilities=True),
        "matthews": of_classes("matthews_corrcoef", share=False),
        "calibration_error": of_classes(
            "calibration_error", probabilities=True, smaller_is_better=True
        ),
    },
    agree=agreement,
    agreed="same class",
    label_fault=label_fault,
    trial=((2, 3), torch.zeros(2, dtype=torch.int64)),
    classes_axis=-1,
)
