"""What "good" means: the loss against labels, the metrics and the agreement, per task."""

from __future__ import annotations

from edgekd.tasks import classification, embedding, regression, segmentation
from edgekd.tasks import token_classification as tokens
from edgekd.tasks.classification import accuracy, balanced_accuracy, cross_entropy
from edgekd.tasks.task import IGNORED, Metric, Task

TASKS: dict[str, Task] = {
    "classification": classification.TASK,
    "regression": regression.TASK,
    "embedding": embedding.TASK,
    "segmentation": segmentation.TASK,
    "token-classification": tokens.TASK,
}

__all__ = ["IGNORED", "TASKS", "Metric", "Task", "accuracy", "balanced_accuracy", "cross_entropy"]
