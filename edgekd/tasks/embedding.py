"""Embedding: one vector per sample, compared by direction."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from edgekd.errors import Fault
from edgekd.system.packages import need
from edgekd.tasks.task import TORCHMETRICS, Metric, Task, shape_fault

SIMILARITY_ROWS = 1024
"""Samples whose similarities to all others are computed at once: 40 MB for 10,000 samples."""

RIDGE = 0.1
"""Regularization of the linear probe, relative to the mean square of a feature. A probe with less
fits noise if there are about as many samples as features (0.001 to 3 tried on the text example)."""


def same_direction(
    student_outputs: Float[Tensor, "batch features"],
    labels: Float[Tensor, "batch features"] | Int[Tensor, " batch"],
    *,
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    """The mean cosine distance to labels that are vectors; or for labels that are classes, the
    supervised contrastive loss, in nats per sample that has another sample of its class.

    Args:
        temperature: of the contrastive loss.

    Source: Khosla et al. 2020, arXiv:2004.11362, equation 2.
    """
    unit = F.normalize(student_outputs.float(), dim=1)
    if labels.is_floating_point():
        return (1.0 - (unit * F.normalize(labels.to(unit.dtype), dim=1)).sum(1)).mean()
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    logits = (unit @ unit.T / temperature).masked_fill(itself, -torch.inf)
    same = (labels[:, None] == labels[None, :]) & ~itself
    logs = F.log_softmax(logits, dim=1).masked_fill(~same, 0.0).sum(1)
    count = same.sum(1)
    return -(logs / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


def nearest(features: Float[Tensor, "samples features"]) -> Int[Tensor, " samples"]:
    """For each sample, the other sample with the largest cosine similarity."""
    unit = F.normalize(features.double(), dim=1)
    neighbours = []
    for ids in torch.arange(len(unit)).split(SIMILARITY_ROWS):
        cosines = unit[ids] @ unit.T
        cosines[torch.arange(len(ids)), ids] = -torch.inf
        neighbours.append(cosines.argmax(1))
    return torch.cat(neighbours)


def cosine(features: Tensor, targets: Tensor) -> float:
    """The mean cosine similarity with the target vectors (-1 to 1)."""
    return float(F.cosine_similarity(features.double(), targets.double(), dim=1).mean())


def neighbour_accuracy(features: Tensor, labels: Tensor) -> float:
    """Share of samples whose nearest other sample has the same class (0-1)."""
    return float((labels[nearest(features)] == labels).double().mean())


def linear_probe(features: Tensor, labels: Tensor) -> float:
    """The accuracy of a linear classifier of the features, fitted by ridge regression on one-hot
    classes to one half of the samples and measured on the other (0-1). The split is fixed."""
    unit = F.normalize(features.double(), dim=1)
    rows = torch.cat([unit, torch.ones(len(unit), 1, dtype=unit.dtype)], dim=1)
    classes, ids = labels.unique(return_inverse=True)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    rows, ids = rows[order], ids[order]
    train, test = rows[::2], rows[1::2]
    one_hot = F.one_hot(ids[::2], len(classes)).to(rows.dtype)
    ridge = RIDGE * len(train) / rows.shape[1] * torch.eye(rows.shape[1], dtype=rows.dtype)
    weights = torch.linalg.solve(train.T @ train + ridge, train.T @ one_hot)
    return float(((test @ weights).argmax(1) == ids[1::2]).double().mean())


def retrieval_map(features: Tensor, labels: Tensor) -> float:
    """Mean average precision of retrieving the other samples of a sample's class (0-1).

    Source: https://lightning.ai/docs/torchmetrics/stable/retrieval/map.html
    """
    functional = need("torchmetrics.functional", extra=TORCHMETRICS[1])
    unit = F.normalize(features.float(), dim=1)
    scores = []
    for number in range(len(unit)):
        others = torch.arange(len(unit)) != number
        same = labels[others] == labels[number]
        if same.any():
            similarity = unit[others] @ unit[number]
            scores.append(functional.retrieval_average_precision(similarity, same))
    return float(torch.stack(scores).double().mean()) if scores else 0.0


def agreement(reference: Tensor, outputs: Tensor, labels: Tensor | None) -> float | None:  # noqa: ARG001
    """Share of samples with the same nearest other sample (0-1); the widths may differ."""
    if reference.ndim != 2 or outputs.ndim != 2 or len(reference) < 3:
        return None
    return float((nearest(reference) == nearest(outputs)).double().mean())


def label_fault(shape: tuple[int | None, ...], labels: Tensor) -> Fault | None:
    """What is wrong with `labels`, which are a class or a vector for each sample."""
    if len(shape) != 2:
        return shape_fault(labels, "outputs batch x features", "give the student one vector each")
    if not labels.is_floating_point():
        expected = "a class for each sample, or a vector of real numbers"
        return None if labels.ndim == 1 else shape_fault(labels, expected, "give one class each")
    fits = labels.ndim == 2 and labels.shape[1] == (shape[1] or labels.shape[1])
    expected = f"batch x {shape[1]} real numbers; or batch, integers"
    return None if fits else shape_fault(labels, expected, "give vectors of the student's length")


TASK = Task(
    name="embedding",
    loss=same_direction,
    metrics={
        "neighbour_accuracy": Metric(neighbour_accuracy),
        "linear_probe": Metric(linear_probe),
        "retrieval_map": Metric(retrieval_map, package=TORCHMETRICS),
        "cosine": Metric(cosine, share=False, takes="numbers"),
    },
    agreement=agreement,
    agreement_name="same nearest sample",
    label_fault=label_fault,
    trial=((2, 3), torch.zeros(2, dtype=torch.int64)),
    relates_samples=True,
)
