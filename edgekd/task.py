"""What "good" means: the loss against labels and the metrics, per task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


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


Metric = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class Task:
    """One kind of problem.

    Attributes:
        hard_loss: the loss of outputs against labels; keyword-only arguments are recipe options.
        metrics: by name; all are better when larger.
    """

    name: str
    hard_loss: Callable[..., Tensor]
    metrics: Mapping[str, Metric]


TASKS: dict[str, Task] = {
    "classification": Task(
        name="classification",
        hard_loss=cross_entropy,
        metrics={"accuracy": accuracy, "balanced_accuracy": balanced_accuracy},
    ),
}
