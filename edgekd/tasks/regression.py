"""Numbers for each sample."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgekd.errors import Fault
from edgekd.tasks.task import Metric, Task, shape_fault
from edgekd.tasks.torchmetrics import of_numbers


def mean_squared_error(
    student_outputs: Float[Tensor, "batch ..."],
    labels: Float[Tensor, "batch ..."],
    *,
    huber_delta: float | None = None,
) -> Float[Tensor, ""]:
    """The mean squared error of all numbers.

    Args:
        huber_delta: the error over which it counts by its size and no more by its square, as
            2 * Huber's loss; without it every error counts by its square.

    Source: https://pytorch.org/docs/stable/generated/torch.nn.functional.huber_loss.html
    """
    ours, theirs = aligned(student_outputs, labels)
    if huber_delta is None:
        return F.mse_loss(ours, theirs)
    return 2.0 * F.huber_loss(ours, theirs, delta=huber_delta)


def aligned(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Both in floating point, as samples x numbers.

    Without it, targets of shape batch and outputs of batch x 1 would be compared each with each.

    Raises:
        ValueError: they are not as many.
    """
    ours = outputs.reshape(len(outputs), -1)
    ours = ours if ours.is_floating_point() else ours.float()
    theirs = targets.reshape(len(targets), -1).to(ours.dtype)
    if ours.shape != theirs.shape:
        raise ValueError(f"outputs {tuple(ours.shape)} and targets {tuple(theirs.shape)} differ")
    return ours, theirs


def mae(outputs: Tensor, targets: Tensor) -> float:
    """The mean absolute error, in the targets' unit."""
    ours, theirs = aligned(outputs, targets)
    return float((ours.double() - theirs.double()).abs().mean())


def rmse(outputs: Tensor, targets: Tensor) -> float:
    """The root of the mean squared error, in the targets' unit."""
    ours, theirs = aligned(outputs, targets)
    return float((ours.double() - theirs.double()).square().mean().sqrt())


def r2(outputs: Tensor, targets: Tensor) -> float:
    """The share of the targets' variance that is told, over all columns together; 1 at best.

    1 - sum of squared errors / sum of squared distances from each column's mean. Of targets that do
    not vary it is 1 where all are met, else 0.
    """
    ours, theirs = (each.double() for each in aligned(outputs, targets))
    errors = float((ours - theirs).square().sum())
    spread = float((theirs - theirs.mean(0)).square().sum())
    if spread == 0:
        return float(errors == 0)
    return 1.0 - errors / spread


def agreement(reference: Tensor, outputs: Tensor, labels: Tensor | None) -> float | None:  # noqa: ARG001
    """R2 of `outputs` with `reference` as the truth; 1 where all are equal."""
    if reference.shape != outputs.shape or not reference.is_floating_point():
        return None
    return r2(outputs, reference) if len(reference) > 1 else None


def label_fault(shape: tuple[int | None, ...], labels: Tensor) -> Fault | None:
    """What is wrong with `labels`: as many numbers for each sample as outputs."""
    if not labels.is_floating_point():
        return shape_fault(labels, "real numbers, float32", "give labels.float()")
    known = shape[1:]
    if known in ((), (1,)) and tuple(labels.shape[1:]) in ((), (1,)):
        return None
    fits = labels.ndim == len(shape) and all(
        size is None or size == given for size, given in zip(known, labels.shape[1:], strict=True)
    )
    sizes = " x ".join(["batch", *("?" if size is None else str(size) for size in known)])
    return None if fits else shape_fault(labels, sizes, "give a number for each output")


TASK = Task(
    name="regression",
    hard_loss=mean_squared_error,
    metrics={
        "mae": Metric(mae, smaller_is_better=True, share=False, takes="numbers"),
        "rmse": Metric(rmse, smaller_is_better=True, share=False, takes="numbers"),
        "r2": Metric(r2, share=False, takes="numbers"),
        "mape": of_numbers("mean_absolute_percentage_error", aligned, smaller_is_better=True),
        "pearson": of_numbers("pearson_corrcoef", aligned),
        "spearman": of_numbers("spearman_corrcoef", aligned),
    },
    agree=agreement,
    agreed="R2 with the network",
    label_fault=label_fault,
    trial=((2, 3), torch.zeros(2, 3)),
)
