"""Which samples make a calibration set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

SELECTIONS = ("random", "stratified", "first", "k-centre", "worst-loss")
"""Drawn; as many of each label; the first ones; spread over the features; of the largest loss."""


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
    """The ids of `count` of `total` samples, in the order every quantizer gets them.

    Args:
        labels: of all samples, for a stratified selection.
        features: of all samples, samples x features, for k-centre.
        losses: of all samples, for worst-loss.

    Raises:
        ValueError: there are fewer than `count` samples, or what the selection looks at is missing.
    """
    if count > total:
        raise ValueError(f"{count} samples asked of {total}")
    if selection == "first":
        return list(range(count))
    if selection == "k-centre":
        return k_centre(_given(features, selection, "features"), count)
    if selection == "worst-loss":
        order = _given(losses, selection, "losses").argsort(descending=True, stable=True)
        return [int(sample) for sample in order[:count]]
    drawn: list[int] = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).tolist()
    if selection == "random":
        return drawn[:count]
    return _stratified(drawn, count, _given(labels, selection, "labels"))


def _given(value: Tensor | None, selection: str, what: str) -> Tensor:
    if value is None:
        raise ValueError(f"a {selection} selection needs {what}")
    return value


def _stratified(drawn: list[int], count: int, labels: Tensor) -> list[int]:
    by_label: dict[Any, list[int]] = {}
    for sample in drawn:
        by_label.setdefault(labels[sample].item(), []).append(sample)
    queues = [by_label[label] for label in sorted(by_label)]
    dealt: list[int] = []
    turn = 0
    while len(dealt) < count:
        queue = queues[turn % len(queues)]
        if queue:
            dealt.append(queue.pop(0))
        turn += 1
    return dealt


def k_centre(features: Float[Tensor, "samples features"], count: int) -> list[int]:
    """The ids of `count` samples so that none lies far from all of them, by distance of features.

    Greedily: the next is the one farthest from those that are chosen. Its largest distance is at
    most twice the least that any choice of as many has.

    Source: Sener, Savarese 2018, arXiv:1708.00489, algorithm 1.
    Differs: nothing is chosen yet, so the first is the sample nearest to the mean of all.
    """
    places = features.double()
    chosen = [int((places - places.mean(0)).square().sum(1).argmin())]
    nearest = (places - places[chosen[0]]).square().sum(1)
    nearest[chosen[0]] = -1.0
    while len(chosen) < count:
        far = int(nearest.argmax())
        chosen.append(far)
        nearest = torch.minimum(nearest, (places - places[far]).square().sum(1))
        nearest[chosen] = -1.0
    return chosen
