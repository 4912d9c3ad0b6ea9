"""What a task is made of: a hard loss, metrics with their direction, an agreement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from edgekd.errors import Fault

IGNORED = -100
"""The label of a token or pixel that counts for nothing: padding, the unlabelled border.

Source: `ignore_index` of torch.nn.functional.cross_entropy.
"""

TORCHMETRICS = ("torchmetrics", "metrics")
"""A package and the extra that brings it."""


@dataclass(frozen=True)
class Metric:
    """How good outputs are, against targets.

    Attributes:
        measure: of outputs and targets, over all samples.
        smaller_is_better: whether it is an error.
        share: whether it lies from 0 to 1, so that no drop is over 1.
        takes: what targets are: whole numbers of classes, or real numbers.
        package: what it needs beside torch, and the extra that brings it; None for nothing.
    """

    measure: Callable[[Tensor, Tensor], float]
    smaller_is_better: bool = False
    share: bool = True
    takes: Literal["classes", "numbers"] = "classes"
    package: tuple[str, str] | None = None

    def __call__(self, outputs: Tensor, targets: Tensor) -> float:
        """The figure of `outputs` against `targets`."""
        return self.measure(outputs, targets)

    def drop(self, value: float, against: float) -> float:
        """How much worse `value` is than `against`, in the metric's unit; negative: better."""
        return value - against if self.smaller_is_better else against - value


@dataclass(frozen=True)
class Task:
    """One kind of problem.

    Attributes:
        hard_loss: the loss of outputs against labels; keyword-only arguments are recipe options.
        metrics: by name; the first is the one a recipe gets that names none.
        agree: how far outputs are those of a reference, 1 where they decide the same everywhere;
            labels say which tokens or pixels count. None where the outputs are not this task's.
        agreed: what `agree` is a figure of, in words.
        label_fault: what is wrong with labels, given the shape of outputs; batch first, None free.
        trial: the shape of outputs of two samples and labels for them, to try a loss on.
        classes_axis: of the outputs, where one number stands for each class; None where none does.
        has_places: whether a sample has an answer for each of its tokens or pixels.
        relates_samples: whether the hard loss of a batch is not the mean of that of its samples.
    """

    name: str
    hard_loss: Callable[..., Tensor]
    metrics: Mapping[str, Metric]
    agree: Callable[[Tensor, Tensor, Tensor | None], float | None]
    agreed: str
    label_fault: Callable[[tuple[int | None, ...], Tensor], Fault | None]
    trial: tuple[Sequence[int], Tensor]
    classes_axis: int | None = None
    has_places: bool = False
    relates_samples: bool = False

    @property
    def default_metric(self) -> str:
        """The metric of a recipe that names none."""
        return next(iter(self.metrics))

    def rows(self, logits: Tensor) -> Tensor:
        """Logits as rows x classes: one for each sample, or for each token or pixel of each."""
        return rows(logits, self.classes_axis or 0) if self.has_places else logits


def rows(logits: Tensor, classes_axis: int) -> Tensor:
    """Logits as rows x classes."""
    moved = logits.movedim(classes_axis, -1)
    return moved.reshape(-1, moved.shape[-1])


def counted(logits: Tensor, labels: Tensor, classes_axis: int) -> tuple[Tensor, Tensor]:
    """The rows of logits and their labels, but for those that are ignored."""
    flat = labels.reshape(-1)
    keep = flat != IGNORED
    return rows(logits, classes_axis)[keep], flat[keep]


def same_class(
    reference: Tensor, outputs: Tensor, labels: Tensor | None, classes_axis: int
) -> float | None:
    """Share of places, but for ignored ones, with the same largest class (0-1)."""
    ours, theirs = rows(reference, classes_axis), rows(outputs, classes_axis)
    if ours.shape[1] < 2 or ours.shape != theirs.shape:
        return None
    same = ours.argmax(1) == theirs.argmax(1)
    if labels is not None and not labels.is_floating_point() and labels.numel() == len(same):
        same = same[labels.reshape(-1) != IGNORED]
    return float(same.double().mean()) if len(same) else None


def shape_fault(got: Tensor, expected: str, fix: str) -> Fault:
    """The fault of labels of another shape or kind."""
    return Fault(
        what="The labels are not those of the task.",
        at="data.load, train",
        got=f"labels of shape {tuple(got.shape)}, {str(got.dtype).removeprefix('torch.')}",
        expected=expected,
        fix=fix,
    )


def class_fault(labels: Tensor, classes: int, *, ignored: bool) -> Fault | None:
    """The fault of labels that are no classes; `ignored`: those of places that do not count may."""
    wrong = (labels < 0) | (labels >= classes)
    if ignored:
        wrong &= labels != IGNORED
    bad = wrong.nonzero()
    if not len(bad):
        return None
    also = f", and {IGNORED} for what does not count" if ignored else ""
    return Fault(
        what=f"{len(bad)} labels are not classes of the student.",
        at="data.load, train",
        got=f"label {int(labels[tuple(bad[0])])} of sample {int(bad[0, 0])}",
        expected=f"labels from 0 to {classes - 1}{also}",
        fix=f"mend the labels, or give the student {int(labels.max()) + 1} classes",
    )


def place_fault(shape: tuple[int | None, ...], labels: Tensor, places: str) -> Fault | None:
    """The fault of whole labels that are not one for each place, `places` in words."""
    expected = f"whole numbers, batch x {places}"
    if labels.is_floating_point() or labels.ndim != len(shape):
        return shape_fault(labels, expected, f"give one class for each of batch x {places}")
    for axis, (size, known) in enumerate(zip(labels.shape[1:], shape[1:], strict=True)):
        if known is not None and size != known:
            told = f"{expected}: {known} on axis {axis + 1}"
            return shape_fault(labels, told, "give labels of the size of the student's outputs")
    return None
