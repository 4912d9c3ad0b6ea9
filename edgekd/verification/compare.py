"""Compares the outputs of a file with those of its network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from edgekd.artifacts.scheme import SCHEMES
from edgekd.artifacts.target import Evidence
from edgekd.errors import ConversionError, Fault, listed
from edgekd.evidence.agreement import Agreement, with_disagreement
from edgekd.evidence.outcome import Outcome
from edgekd.evidence.sqnr import sqnr_db
from edgekd.tasks import TASKS, Task


def compare(
    reference: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
    *,
    scheme: str | None,
    min_agreement: float,
    evidence: Evidence,
    runtime: Mapping[str, Any],
    task: Task | None = None,
    labels: Tensor | None = None,
) -> Agreement:
    """How well `outputs` reproduce `reference`, with the verdict that follows from the scheme.

    Args:
        task: the task whose agreement is judged; without one, the share of samples with the same
            largest class, where the first output is batch x classes.
        labels: the labels that say which tokens or pixels count, for tasks that have such.
    """
    _check_outputs(reference, outputs)
    worst, finite = 0.0, True
    shares: dict[str, float] = {}
    for name, value in reference.items():
        ours, theirs = value.double(), outputs[name].double()
        finite = finite and bool(torch.isfinite(ours).all() and torch.isfinite(theirs).all())
        if not value.is_floating_point():
            shares[name] = float((ours == theirs).double().mean())
        worst = max(worst, float((ours - theirs).abs().max()))
    floats = {name: value for name, value in reference.items() if value.is_floating_point()}
    ratio_db = sqnr_db(floats, outputs)
    first = next(iter(reference))
    task = task or TASKS["classification"]
    agreed = shares.get(first, task.agreement(reference[first], outputs[first], labels))
    classes = first in shares or task.classes_axis is not None
    agreement = Agreement(
        sample_count=len(reference[first]),
        max_abs_error=worst if finite else None,
        sqnr_db=ratio_db,
        top1_agreement_frac=agreed if classes else None,
        metric=None,
        validation_metric=None,
        evidence=evidence,
        runtime=runtime,
        outcome=Outcome.PASSED,
        detail="",
        worst=tuple(_worst(reference, outputs)),
        task_agreement=agreed,
        agreed=task.agreement_name,
    )
    if not finite:
        return with_disagreement(agreement, "an output is not finite")
    # A file that edgekd did not write has no known scheme, and so no floor.
    floor = SCHEMES[scheme].sqnr_floor_db if scheme else -math.inf
    if ratio_db < floor:
        return with_disagreement(
            agreement, f"SQNR is {ratio_db:.1f} dB, under the {floor:.0f} dB that {scheme} keeps"
        )
    for name, share in shares.items():
        if share < min_agreement:
            return with_disagreement(
                agreement, f"{share:.4f} of the values of {name} are equal, under {min_agreement}"
            )
    if agreed is not None and agreed < min_agreement:
        why = f"it agrees on {agreed:.4f} of the samples"
        if task.name != "classification":
            why = f"{task.agreement_name} is {agreed:.4f}"
        return with_disagreement(agreement, f"{why}, under {min_agreement}")
    return agreement


def _check_outputs(reference: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
    """Raises a ConversionError if `outputs` lack the names or shapes of `reference`."""
    if set(reference) != set(outputs):
        raise ConversionError(
            Fault(
                what="The artifact's outputs are not the network's.",
                at="outputs",
                got=listed(sorted(outputs)),
                expected=listed(sorted(reference)),
                fix="export it again from this network",
            )
        )
    for name, value in reference.items():
        if outputs[name].shape != value.shape:
            raise ConversionError(
                Fault(
                    what=f"The artifact's output {name!r} has another shape than the network's.",
                    at=f"output {name}",
                    got=str(tuple(outputs[name].shape)),
                    expected=str(tuple(value.shape)),
                    fix="export it again from this network",
                )
            )


WORST = 8
"""The number of samples that are recorded as those with the largest error."""


def _worst(reference: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> list[int]:
    """The numbers of the samples with the largest error relative to their outputs, worst first."""
    count = len(next(iter(reference.values())))
    error, size = torch.zeros(count).double(), torch.zeros(count).double()
    for name, value in reference.items():
        # Only where the first axis is samples: with dynamic shapes it may not be.
        if value.ndim and len(value) == count:
            ours, theirs = (each.double().reshape(count, -1) for each in (value, outputs[name]))
            error += ((ours - theirs) ** 2).sum(1)
            size += (ours**2).sum(1)
    share = torch.where(error == 0, 0.0, error / size.clamp(min=1e-30))
    share = torch.where(share.isfinite(), share, torch.inf)
    order = share.argsort(descending=True, stable=True)[:WORST]
    return [int(number) for number in order if share[number] > 0]
