"""Classification: one class per sample."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from edgekd.errors import Fault
from edgekd.tasks.task import Metric, Task, class_fault, same_class, shape_fault
from edgekd.tasks.torchmetrics import class_metric


def cross_entropy(
    student_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Cross-entropy of the labels, in nats per sample.

    Args:
        label_smoothing: share of the probability spread evenly over all classes (0-1).

    Source: https://pytorch.org/docs/stable/generated/torch.nn.functional.cross_entropy.html
    """
    return F.cross_entropy(student_logits.float(), labels, label_smoothing=label_smoothing)


def accuracy(logits: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]) -> float:
    """Share of samples whose largest logit is the label's (0-1)."""
    return float((logits.argmax(1) == labels).double().mean())


def balanced_accuracy(
    logits: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]
) -> float:
    """Mean of the accuracies on the classes that occur in the labels (0-1)."""
    correct = (logits.argmax(1) == labels).double()
    per_class = [correct[labels == label].mean() for label in labels.unique()]
    return float(torch.stack(per_class).mean())


def agreement(reference: Tensor, outputs: Tensor, labels: Tensor | None) -> float | None:
    """Share of samples with the same largest class (0-1); None if the outputs are not logits."""
    if reference.ndim != 2 or not reference.is_floating_point():
        return None
    return same_class(reference, outputs, labels, -1)


def label_fault(shape: tuple[int | None, ...], labels: Tensor) -> Fault | None:
    """What is wrong with `labels`, which are integer classes, or a probability per class."""
    classes = shape[-1]
    if len(shape) != 2 or classes is None:
        return None  # The losses are tried on the network's outputs.
    if labels.is_floating_point():
        fits = labels.ndim == 2 and labels.shape[1] == classes
        expected = f"batch, integers; or batch x {classes} probabilities"
        fix = "give each sample's class as an int64"
        return None if fits else shape_fault(labels, expected, fix)
    if labels.ndim != 1:
        return shape_fault(labels, "batch", "give each sample one class, not one-hot")
    return class_fault(labels, classes, ignored=False)


TASK = Task(
    name="classification",
    loss=cross_entropy,
    metrics={
        "accuracy": Metric(accuracy),
        "balanced_accuracy": Metric(balanced_accuracy),
        "top5_accuracy": class_metric("accuracy", average="micro", top_k=5),
        "f1_macro": class_metric("f1_score", average="macro"),
        "auroc": class_metric("auroc", probabilities=True),
        "average_precision": class_metric("average_precision", probabilities=True),
        "matthews": class_metric("matthews_corrcoef", share=False),
        "calibration_error": class_metric(
            "calibration_error", probabilities=True, smaller_is_better=True
        ),
    },
    agreement=agreement,
    agreement_name="same class",
    label_fault=label_fault,
    trial=((2, 3), torch.zeros(2, dtype=torch.int64)),
    classes_axis=-1,
)
