"""One class per token or pixel: token classification and segmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from edgekd.errors import Fault
from edgekd.tasks.task import IGNORED, Metric, Task, class_fault, rows, same_class, shape_fault
from edgekd.tasks.torchmetrics import class_metric


def dense_task(
    name: str, *, position: str, axes: str, classes_axis: int, metrics: Mapping[str, str]
) -> Task:
    """A task with one class per `position`; the label -100 is ignored.

    Args:
        position: what has a class, such as "pixel".
        axes: the axes of the labels after the batch, such as "height x width".
        classes_axis: the axis of the outputs that has one value per class.
        metrics: further metrics by name, each the name of a multiclass metric of torchmetrics,
            averaged over the classes.
    """

    def labelled(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return labelled_rows(logits, labels, classes_axis)

    def cross_entropy(
        student_logits: Float[Tensor, " *outputs"],
        labels: Int[Tensor, " *positions"],
        *,
        label_smoothing: float = 0.0,
    ) -> Float[Tensor, ""]:
        """Cross-entropy of the labels, in nats per position that is not ignored.

        Source: https://pytorch.org/docs/stable/generated/torch.nn.functional.cross_entropy.html
        """
        logits, targets = labelled(student_logits.float(), labels)
        total = F.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="sum")
        return total / max(1, len(targets))

    def accuracy(logits: Tensor, labels: Tensor) -> float:
        """Share of positions, without ignored ones, whose largest logit is the label's (0-1)."""
        predicted, targets = labelled(logits, labels)
        return float((predicted.argmax(1) == targets).double().mean())

    sizes = [4] * len(axes.split(" x "))
    dimension_count = 2 + len(sizes)

    def agreement(reference: Tensor, outputs: Tensor, labels: Tensor | None) -> float | None:
        if reference.ndim != dimension_count:
            return None
        return same_class(reference, outputs, labels, classes_axis)

    shape = [2, *sizes]
    shape.insert(classes_axis if classes_axis > 0 else len(shape), 3)
    return Task(
        name=name,
        loss=cross_entropy,
        metrics={
            f"{position}_accuracy": Metric(accuracy),
            **{
                own: class_metric(theirs, labelled, average="macro")
                for own, theirs in metrics.items()
            },
        },
        agreement=agreement,
        agreement_name=f"same class, of {position}s",
        label_fault=_label_fault(position, axes, classes_axis, dimension_count),
        trial=(shape, torch.zeros(2, *sizes, dtype=torch.int64)),
        classes_axis=classes_axis,
        dense=True,
    )


def labelled_rows(logits: Tensor, labels: Tensor, classes_axis: int) -> tuple[Tensor, Tensor]:
    """The rows of logits and their labels, without ignored ones."""
    flat = labels.reshape(-1)
    keep = flat != IGNORED
    return rows(logits, classes_axis)[keep], flat[keep]


def _label_fault(
    position: str, axes: str, classes_axis: int, dimension_count: int
) -> Callable[[tuple[int | None, ...], Tensor], Fault | None]:
    """A check that labels have a class, or -100, for each position of outputs of a shape."""
    names = axes.split(" x ")
    names.insert(classes_axis - 1 if classes_axis > 0 else len(names), "classes")
    outputs = " x ".join(["batch", *names])

    def label_fault(shape: tuple[int | None, ...], labels: Tensor) -> Fault | None:
        if len(shape) != dimension_count:
            expected = f"outputs {outputs}, and labels batch x {axes}"
            return shape_fault(labels, expected, f"give the student a class for each {position}")
        classes = shape[classes_axis]
        positions = [size for axis, size in enumerate(shape) if axis != classes_axis % len(shape)]
        fault = _position_fault(positions, labels, axes)
        if fault is None and classes is not None:
            fault = class_fault(labels, classes, ignored=True)
        return fault

    return label_fault


def _position_fault(shape: list[int | None], labels: Tensor, axes: str) -> Fault | None:
    """The fault of labels that are not one integer for each position."""
    expected = f"integers, batch x {axes}"
    if labels.is_floating_point() or labels.ndim != len(shape):
        return shape_fault(labels, expected, f"give one class for each of batch x {axes}")
    for axis, (given, size) in enumerate(zip(labels.shape[1:], shape[1:], strict=True)):
        if size is not None and given != size:
            known = f"{expected}: {size} on axis {axis + 1}"
            return shape_fault(labels, known, "give labels of the size of the student's outputs")
    return None


TOKEN_CLASSIFICATION = dense_task(
    "token-classification",
    position="token",
    axes="tokens",
    classes_axis=-1,
    metrics={"f1_macro": "f1_score"},
)

SEGMENTATION = dense_task(
    "segmentation",
    position="pixel",
    axes="height x width",
    classes_axis=1,
    metrics={"mean_iou": "jaccard_index", "dice": "f1_score"},
)
