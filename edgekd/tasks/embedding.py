"""A vector for each sample, of which only the directions count."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from edgekd.errors import Fault
from edgekd.system.packages import need
from edgekd.tasks.task import TORCHMETRICS, Metric, Task, shape_fault

COMPARED = 1024
"""Samples whose similarities to all others are computed at once: 40 MB at ten thousand samples."""

RIDGE = 0.1
"""Of the linear probe, of the mean square of a feature: with about as many samples as features, a
probe with less of it follows noise (tried from 0.001 to 3 on the text example, best here)."""


def same_direction(
    student_outputs: Float[Tensor, "batch features"],
    labels: Float[Tensor, "batch features"] | Int[Tensor, " batch"],
    *,
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    """Of labels that are vectors: one minus the cosine with them; the mean. Of labels that are
    classes: the supervised contrastive loss, in nats per sample that has another of its class.

    Args:
        temperature: of classes alone.

    Source: Khosla et al. 2020, arXiv:2004.11362, equation 2.
    """
    ours = F.normalize(student_outputs.float(), dim=1)
    if labels.is_floating_point():
        return (1.0 - (ours * F.normalize(labels.to(ours.dtype), dim=1)).sum(1)).mean()
    alone = torch.eye(len(ours), dtype=torch.bool, device=ours.device)
    logits = (ours @ ours.T / temperature).masked_fill(alone, -torch.inf)
    same = (labels[:, None] == labels[None, :]) & ~alone
    logs = F.log_softmax(logits, dim=1).masked_fill(~same, 0.0).sum(1)
    count = same.sum(1)
    return -(logs / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


def nearest(features: Float[Tensor, "samples features"]) -> Int[Tensor, " samples"]:
    """For each sample the other one of the largest cosine."""
    found = F.normalize(features.double(), dim=1)
    picked = []
    for ids in torch.arange(len(found)).split(COMPARED):
        cosines = found[ids] @ found.T
        cosines[torch.arange(len(ids)), ids] = -torch.inf
        picked.append(cosines.argmax(1))
    return torch.cat(picked)


def cosine(features: Tensor, targets: Tensor) -> float:
    """The mean cosine with the vectors that are the targets (-1 to 1)."""
    return float(F.cosine_similarity(features.double(), targets.double(), dim=1).mean())


def neighbour_accuracy(features: Tensor, labels: Tensor) -> float:
    """Share of samples whose nearest other sample is of their class (0-1)."""
    return float((labels[nearest(features)] == labels).double().mean())


def linear_probe(features: Tensor, labels: Tensor) -> float:
    """What a linear classifier makes of the features: its accuracy on half of the samples, drawn
    the same each time, once fitted to the others by ridge regression on one-hot classes (0-1)."""
    found = F.normalize(features.double(), dim=1)
    rows = torch.cat([found, torch.ones(len(found), 1, dtype=found.dtype)], dim=1)
    classes, ids = labels.unique(return_inverse=True)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    rows, ids = rows[order], ids[order]
    known, asked = rows[::2], rows[1::2]
    wanted = F.one_hot(ids[::2], len(classes)).to(rows.dtype)
    ridge = RIDGE * len(known) / rows.shape[1] * torch.eye(rows.shape[1], dtype=rows.dtype)
    weights = torch.linalg.solve(known.T @ known + ridge, known.T @ wanted)
    return float(((asked @ weights).argmax(1) == ids[1::2]).double().mean())


def retrieval_map(features: Tensor, labels: Tensor) -> float:
    """The mean over samples of how well the others of its class are ranked first (0-1).

    Source: https://lightning.ai/docs/torchmetrics/stable/retrieval/map.html
    """
    functional = need("torchmetrics.functional", extra=TORCHMETRICS[1])
    found = F.normalize(features.float(), dim=1)
    scores = []
    for number in range(len(found)):
        others = torch.arange(len(found)) != number
        same = labels[others] == labels[number]
        if same.any():
            ranked = found[others] @ found[number]
            scores.append(functional.retrieval_average_precision(ranked, same))
    return float(torch.stack(scores).double().mean()) if scores else 0.0


def agreement(reference: Tensor, outputs: Tensor, labels: Tensor | None) -> float | None:  # noqa: ARG001
    """Share of samples with the same nearest other sample (0-1); widths may differ."""
    if reference.ndim != 2 or outputs.ndim != 2 or len(reference) < 3:
        return None
    return float((nearest(reference) == nearest(outputs)).double().mean())


def label_fault(shape: tuple[int | None, ...], labels: Tensor) -> Fault | None:
    """What is wrong with `labels`: a class, or a vector, for each sample."""
    if len(shape) != 2:
        return shape_fault(labels, "outputs batch x features", "give the student one vector each")
    if not labels.is_floating_point():
        expected = "a class for each sample, or a vector of real numbers"
        return None if labels.ndim == 1 else shape_fault(labels, expected, "give one class each")
    fits = labels.ndim == 2 and labels.shape[1] == (shape[1] or labels.shape[1])
    told = f"batch x {shape[1]} real numbers; or batch whole numbers"
    return None if fits else shape_fault(labels, told, "give vectors of the student's length")


TASK = Task(
    name="embedding",
    hard_loss=same_direction,
    metrics={
        "neighbour_accuracy": Metric(neighbour_accuracy),
        "linear_probe": Metric(linear_probe),
        "retrieval_map": Metric(retrieval_map, package=TORCHMETRICS),
        "cosine": Metric(cosine, share=False, takes="numbers"),
    },
    agree=agreement,
    agreed="same nearest sample",
    label_fault=label_fault,
    trial=((2, 3), torch.zeros(2, dtype=torch.int64)),
    relates_samples=True,
)
