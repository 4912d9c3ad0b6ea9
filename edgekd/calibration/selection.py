"""Selects the samples of a calibration set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

SELECTIONS = ("random", "stratified", "first", "k-centre", "highest-loss")
"""Drawn at random; evenly from each label; the first; spread over the features; hard examples."""

RENAMED = {"worst-loss": "highest-loss"}
"""Names of version 0.1, which are still accepted."""


def current_name(selection: Any) -> Any:
    """The current name of a selection that may have its old one."""
    return RENAMED.get(selection, selection) if isinstance(selection, str) else selection


def select(
    total: int,
    count: int,
    selection: str,
    *,
    seed: int,
    labels: Tensor | None = None,
    features: Tensor | None = None,
    losses: Tensor | None = None,
) -> Sequence[int]:
    """The indices of `count` of `total` samples, in the order that every quantizer gets them.

    Args:
        labels: of all samples, for a stratified selection.
        features: of all samples, samples x features, for k-centre.
        losses: of all samples, for highest-loss.

    Raises:
        ValueError: there are fewer than `count` samples, or the selection's tensor is missing.
    """
    selection = current_name(selection)
    if count > total:
        raise ValueError(f"{count} samples of {total} were requested")
    if selection == "first":
        return list(range(count))
    if selection == "k-centre":
        return k_centre(_needed(features, selection, "features"), count)
    if selection == "highest-loss":
        order = _needed(losses, selection, "losses").argsort(descending=True, stable=True)
        return [int(sample) for sample in order[:count]]
    drawn: list[int] = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).tolist()
    if selection == "random":
        return drawn[:count]
    return _stratified(drawn, count, _needed(labels, selection, "labels"))


def _needed(value: Tensor | None, selection: str, what: str) -> Tensor:
    if value is None:
        raise ValueError(f"a {selection} selection needs {what}")
    return value


def _stratified(drawn: list[int], count: int, labels: Tensor) -> list[int]:
    by_label: dict[Any, list[int]] = {}
    for sample in drawn:
        by_label.setdefault(labels[sample].item(), []).append(sample)
    queues = [by_label[label] for label in sorted(by_label)]
    selected: list[int] = []
    turn = 0
    while len(selected) < count:
        queue = queues[turn % len(queues)]
        if queue:
            selected.append(queue.pop(0))
        turn += 1
    return selected


def k_centre(features: Float[Tensor, "samples features"], count: int) -> list[int]:
    """The indices of `count` samples such that every sample is close to one of them.

    The greedy algorithm adds the sample farthest from those already selected. The largest distance
    to a selected sample is at most twice that of the best selection.

    Source: Sener, Savarese 2018, arXiv:1708.00489, algorithm 1.
    Differs: the first sample is the one nearest to the mean, since none is selected before it.
    """
    points = features.double()
    selected = [int((points - points.mean(0)).square().sum(1).argmin())]
    distances = (points - points[selected[0]]).square().sum(1)
    distances[selected[0]] = -1.0
    while len(selected) < count:
        farthest = int(distances.argmax())
        selected.append(farthest)
        distances = torch.minimum(distances, (points - points[farthest]).square().sum(1))
        distances[selected] = -1.0
    return selected
