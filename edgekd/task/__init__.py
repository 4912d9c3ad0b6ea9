"""What "good" means: the loss against labels, the metrics and the agreement, per task."""

from __future__ import annotations

from edgekd.task import classification, embedding, regression, segmentation, tokens
from edgekd.task.classification import accuracy, balanced_accuracy, cross_entropy
from edgekd.task.kind import IGNORED, Metric, Task

TASKS: dict[str, Task] = {
    "classification": classification.TASK,
    "regression": regression.TASK,
    "embedding": embedding.TASK,
    "segmentation": segmentation.TASK,
    "token-classification": tokens.TASK,
}

__all__ = ["IGNORED", "TASKS", "Metric", "Task", "accuracy", "balanced_accuracy", "cross_entropy"]
