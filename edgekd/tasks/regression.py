"""Regression: real numbers per sample."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgekd.errors import Fault
from edgekd.tasks.task import Metric, Task, shape_fault
from edgekd.tasks.torchmetrics import number_metric


def mean_squared_error(
    student_outputs: Float[Tensor, "batch ..."],
    labels: Float[Tensor, "batch ..."],
    *,
    huber_delta: float | None = None,
) -> Float[Tensor, ""]:
    """The mean squared error over all numbers, or twice Huber's loss.

    Args:
        huber_delta: the error above which the loss grows linearly; None: always quadratic.

    Source: https://pytorch.org/docs/stable/generated/torch.nn.functional.huber_loss.html
    """
    outputs, targets = aligned(student_outputs, labels)
    if huber_delta is None:
        return F.mse_loss(outputs, targets)
    return 2.0 * F.huber_loss(outputs, targets, delta=huber_delta)


def aligned(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and targets as samples x numbers, in floating point.

    Outputs of shape batch x 1 and targets of shape batch would otherwise broadcast.

    Raises:
        ValueError: their shapes differ.
    """
    flat = outputs.reshape(len(outputs), -1)
    flat = flat if flat.is_floating_point() else flat.float()
    expected = targets.reshape(len(targets), -1).to(flat.dtype)
    if flat.shape != expected.shape:
        raise ValueError(f"outputs {tuple(flat.shape)} and targets {tuple(expected.shape)} differ")
    return flat, expected


def mae(outputs: Tensor, targets: Tensor) -> float:
    """The mean absolute error, in the targets' unit."""
    predicted, expected = aligned(outputs, targets)
    return float((predicted.double() - expected.double()).abs().mean())


def rmse(outputs: Tensor, targets: Tensor) -> float:
    """The root of the mean squared error, in the targets' unit."""
    predicted, expected = aligned(outputs, targets)
    return float((predicted.double() - expected.double()).square().mean().sqrt())


def r2(outputs: Tensor, targets: Tensor) -> float:
    """The coefficient of determination over all columns together; at most 1.

    1 - sum of squared errors / sum of squared distances from each column's mean. If the targets do
    not vary, it is 1 for exact outputs and 0 otherwise.
    """
    predicted, expected = (each.double() for each in aligned(outputs, targets))
    errors = float((predicted - expected).square().sum())
    spread = float((expected - expected.mean(0)).square().sum())
    if spread == 0:
        return float(errors == 0)
    return 1.0 - errors / spread


def agreement(reference: Tensor, outputs: Tensor, labels: Tensor | None) -> float | None:  # noqa: ARG001
    """R2 of `outputs` with `reference` as the targets; 1 if they are equal."""
    if reference.shape != outputs.shape or not reference.is_floating_point():
        return None
    return r2(outputs, reference) if len(reference) > 1 else None


def label_fault(shape: tuple[int | None, ...], labels: Tensor) -> Fault | None:
    """What is wrong with `labels`, which have the shape of the outputs."""
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
    loss=mean_squared_error,
    metrics={
        "mae": Metric(mae, smaller_is_better=True, share=False, takes="numbers"),
        "rmse": Metric(rmse, smaller_is_better=True, share=False, takes="numbers"),
        "r2": Metric(r2, share=False, takes="numbers"),
        "mape": number_metric("mean_absolute_percentage_error", aligned, smaller_is_better=True),
        "pearson": number_metric("pearson_corrcoef", aligned),
        "spearman": number_metric("spearman_corrcoef", aligned),
    },
    agreement=agreement,
    agreement_name="R2 with the network",
    label_fault=label_fault,
    trial=((2, 3), torch.zeros(2, 3)),
)
