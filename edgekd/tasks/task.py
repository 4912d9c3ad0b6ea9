"""The contract of a task: its loss, metrics, agreement and check of labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from edgekd.errors import Fault

IGNORED = -100
"""The label of a token or pixel that is ignored: padding, or an unlabelled border.

Source: `ignore_index` of torch.nn.functional.cross_entropy.
"""

TORCHMETRICS = ("torchmetrics", "metrics")
"""The package torchmetrics, and the extra that installs it."""


@dataclass(frozen=True)
class Metric:
    """A figure of how good outputs are, given the targets.

    Attributes:
        measure: computes it from outputs and targets, over all samples.
        smaller_is_better: whether it is an error.
        share: whether it lies in [0, 1], so that no drop exceeds 1.
        takes: what targets must be: integer classes, or real numbers; None if both will do.
        package: the package it needs besides torch, and the extra that installs it.
    """

    measure: Callable[[Tensor, Tensor], float]
    smaller_is_better: bool = False
    share: bool = True
    takes: Literal["classes", "numbers"] | None = "classes"
    package: tuple[str, str] | None = None

    def __call__(self, outputs: Tensor, targets: Tensor) -> float:
        """The metric of `outputs`, given `targets`."""
        return float(self.measure(outputs, targets))

    def drop(self, value: float, against: float) -> float:
        """How much worse `value` is than `against`, in the metric's unit; negative if better."""
        return value - against if self.smaller_is_better else against - value


@dataclass(frozen=True)
class Task:
    """A kind of problem: what the outputs and labels of a network mean.

    Attributes:
        name: as a recipe names it.
        loss: the loss of outputs against labels; its keyword-only arguments are recipe options.
        metrics: by name; the first is the default of a recipe.
        agreement: how closely outputs match those of a reference, 1 if every decision is the same,
            given the labels, which mark ignored tokens or pixels. None if the outputs are not those
            of this task.
        agreement_name: what `agreement` measures, such as "same class".
        label_fault: what is wrong with labels, given the shape of the outputs (batch first, None
            for a dynamic dimension); None if they fit.
        trial: the shape of the outputs of two samples, and labels for them, to try a loss on.
        classes_axis: the axis of the outputs that has one value per class; None if there is none.
        dense: whether a sample has one answer per token or pixel.
        relates_samples: whether the loss of a batch differs from the mean loss of its samples.
    """

    name: str
    loss: Callable[..., Tensor]
    metrics: Mapping[str, Metric]
    agreement: Callable[[Tensor, Tensor, Tensor | None], float | None]
    agreement_name: str
    label_fault: Callable[[tuple[int | None, ...], Tensor], Fault | None]
    trial: tuple[Sequence[int], Tensor]
    classes_axis: int | None = None
    dense: bool = False
    relates_samples: bool = False

    @property
    def default_metric(self) -> str:
        """The metric of a recipe that names none."""
        return next(iter(self.metrics))

    def rows(self, logits: Tensor) -> Tensor:
        """Logits as rows x classes: one row per sample, or per token or pixel of each sample."""
        return rows(logits, self.classes_axis or 0) if self.dense else logits


def rows(logits: Tensor, classes_axis: int) -> Tensor:
    """Logits as rows x classes."""
    moved = logits.movedim(classes_axis, -1)
    return moved.reshape(-1, moved.shape[-1])


def same_class(
    reference: Tensor, outputs: Tensor, labels: Tensor | None, classes_axis: int
) -> float | None:
    """Share of rows with the same largest class, without ignored ones (0-1)."""
    expected, actual = rows(reference, classes_axis), rows(outputs, classes_axis)
    if expected.shape[1] < 2 or expected.shape != actual.shape:
        return None
    same = expected.argmax(1) == actual.argmax(1)
    if labels is not None and not labels.is_floating_point() and labels.numel() == len(same):
        same = same[labels.reshape(-1) != IGNORED]
    return float(same.double().mean()) if len(same) else None


def shape_fault(labels: Tensor, expected: str, fix: str) -> Fault:
    """The fault of labels with the wrong shape or dtype."""
    return Fault(
        what="The labels do not fit the task.",
        at="data.load, train",
        got=f"labels of shape {tuple(labels.shape)}, {str(labels.dtype).removeprefix('torch.')}",
        expected=expected,
        fix=fix,
    )


def class_fault(labels: Tensor, classes: int, *, ignored: bool) -> Fault | None:
    """The fault of labels outside the range of classes.

    Args:
        ignored: whether the label -100 is allowed.
    """
    wrong = (labels < 0) | (labels >= classes)
    if ignored:
        wrong &= labels != IGNORED
    bad = wrong.nonzero()
    if not len(bad):
        return None
    also = f", or {IGNORED} to ignore a position" if ignored else ""
    return Fault(
        what=f"{len(bad)} labels are not classes of the student.",
        at="data.load, train",
        got=f"label {int(labels[tuple(bad[0])])} of sample {int(bad[0, 0])}",
        expected=f"labels from 0 to {classes - 1}{also}",
        fix=f"correct the labels, or give the student {int(labels.max()) + 1} classes",
    )
