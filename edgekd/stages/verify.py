"""Run every artifact in its own runtime on real samples and compare it with its network."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgekd.artifact import Artifact
from edgekd.data import Inputs, joined
from edgekd.devices import failure_error
from edgekd.devices.agent import device_facts
from edgekd.errors import ConversionError, EdgekdError, Fault, RecipeError, UnreachableError, listed
from edgekd.evaluate import check_labels, outputs_of
from edgekd.evidence import Agreement, Outcome, Row, Verdict, Which
from edgekd.execution import run_artifact
from edgekd.formats import find_format
from edgekd.gate import disagreeing, judged, no_slices
from edgekd.need import tool_versions
from edgekd.network import Network, call
from edgekd.scheme import SCHEMES
from edgekd.sizes import fits
from edgekd.store import Run, write_json, written_atomically
from edgekd.target import Evidence, is_emulated
from edgekd.task import TASKS, Task
from edgekd.trained import network_key
from edgekd.work import Work

MIN_AGREEMENT = 0.99


def verify(
    artifact: Artifact,
    network: Network,
    samples: Sequence[Inputs],
    *,
    device: str = "local",
    min_agreement: float = MIN_AGREEMENT,
) -> Agreement:
    """How well `artifact`, run in its own runtime on `device`, reproduces `network` on `samples`.

    A Core ML program is computed by the reference evaluator where its runtime is not; the
    agreement's evidence says so.

    Args:
        samples: inputs by name, batch first; each a multiple of the artifact's batch.
        min_agreement: least share of samples with the same largest class, where there are classes.

    Raises:
        RecipeError: there is no sample, or they do not fit the network.
        ConversionError: the runtime cannot load or run the artifact.
        UnreachableError: the device cannot be reached, or has no runtime for it.
    """
    if not samples:
        raise RecipeError(_no_samples())
    for number, sample in enumerate(samples):
        _check_fit(network, sample, number)
    reference = _reference(network, samples)
    ran = run_artifact(artifact, joined(samples), device)
    if isinstance(ran, Verdict):
        raise failure_error(ran, artifact)
    evidence: Evidence = "emulated" if is_emulated(device) else "device"
    return compare(
        reference,
        ran.outputs,
        scheme=artifact.scheme,
        min_agreement=min_agreement,
        evidence="reference" if ran.by_reference else evidence,
        runtime=ran.facts,
    )


def _reference(network: Network, samples: Sequence[Inputs]) -> dict[str, Tensor]:
    """The network's outputs in eval mode, a sample at a time: a program's batch may be fixed."""
    module = copy.deepcopy(network.module).cpu().eval()
    with torch.no_grad():
        found = [call(module, sample) for sample in samples]
    return {name: torch.cat([each[name] for each in found]) for name in found[0]}


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
        task: whose agreement is judged; without one, the share of samples with the same largest
            class, where the first output is batch x classes.
        labels: which tokens or pixels count, where the task has such.
    """
    _check_outputs(reference, outputs)
    signal = noise = worst = 0.0
    finite = True
    shares: dict[str, float] = {}
    for name, value in reference.items():
        ours, theirs = value.double(), outputs[name].double()
        finite = finite and bool(torch.isfinite(ours).all() and torch.isfinite(theirs).all())
        if value.is_floating_point():
            signal += float((ours**2).sum())
            noise += float(((ours - theirs) ** 2).sum())
        else:
            shares[name] = float((ours == theirs).double().mean())
        worst = max(worst, float((ours - theirs).abs().max()))
    sqnr_db = _decibel(signal, noise) if finite else -math.inf
    first = next(iter(reference))
    task = task or TASKS["classification"]
    agreed = shares.get(first, task.agree(reference[first], outputs[first], labels))
    classes = first in shares or task.classes_axis is not None
    agreement = Agreement(
        sample_count=len(reference[first]),
        max_abs_error=worst if finite else None,
        sqnr_db=sqnr_db,
        top1_agreement_frac=agreed if classes else None,
        metric=None,
        validation_metric=None,
        evidence=evidence,
        runtime=runtime,
        outcome=Outcome.PASSED,
        detail="",
        worst=tuple(_worst(reference, outputs)),
        task_agreement=agreed,
        agreed=task.agreed,
    )
    if not finite:
        return disagreeing(agreement, "an output is not finite")
    # Nothing is known of how a file that edgekd did not write was quantized.
    floor = SCHEMES[scheme].sqnr_floor_db if scheme else -math.inf
    if sqnr_db < floor:
        return disagreeing(
            agreement, f"SQNR is {sqnr_db:.1f} dB, under the {floor:.0f} dB that {scheme} keeps"
        )
    for name, share in shares.items():
        if share < min_agreement:
            return disagreeing(
                agreement, f"{share:.4f} of the values of {name} are equal, under {min_agreement}"
            )
    if agreed is not None and agreed < min_agreement:
        told = f"it agrees on {agreed:.4f} of the samples"
        if task.name != "classification":
            told = f"{task.agreed} is {agreed:.4f}"
        return disagreeing(agreement, f"{told}, under {min_agreement}")
    return agreement


def _check_outputs(reference: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
    """Outputs have the names and shapes of the network's."""
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
"""Samples that are kept of those that an artifact reproduces worst."""


def _worst(reference: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> list[int]:
    """The numbers of the samples of largest error against the size of their outputs."""
    count = len(next(iter(reference.values())))
    error, size = torch.zeros(count).double(), torch.zeros(count).double()
    for name, value in reference.items():
        # Only where samples are what is first: of free sizes they may not be.
        if value.ndim and len(value) == count:
            ours, theirs = (each.double().reshape(count, -1) for each in (value, outputs[name]))
            error += ((ours - theirs) ** 2).sum(1)
            size += (ours**2).sum(1)
    share = torch.where(error == 0, 0.0, error / size.clamp(min=1e-30))
    share = torch.where(share.isfinite(), share, torch.inf)
    order = share.argsort(descending=True, stable=True)[:WORST]
    return [int(number) for number in order if share[number] > 0]


def _decibel(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def _check_fit(network: Network, sample: Inputs, number: int) -> None:
    for spec in network.signature.inputs:
        tensor = sample.get(spec.name)
        dtype = str(tensor.dtype).removeprefix("torch.") if tensor is not None else ""
        if tensor is None or not fits(tensor.shape, spec, but_batch=True) or dtype != spec.dtype:
            found = f"{tuple(tensor.shape)} {dtype}" if tensor is not None else listed(sample)
            raise RecipeError(
                Fault(
                    what="A sample does not fit the network.",
                    at=f"sample {number}, input {spec.name}",
                    got=found,
                    expected=f"{spec.shape} {spec.dtype}",
                    fix="give each input by name, batch first",
                )
            )


def _no_samples() -> Fault:
    return Fault(
        what="An artifact cannot be verified without samples.",
        at="samples",
        got="none",
        expected="real inputs, as many as you have",
        fix="give samples=[{input name: tensor}, ...], on the command line --samples FILE",
    )


def preflight(work: Work) -> None:
    """Finds out whether the labels and slices of `work` can be judged by, before any training.

    Raises:
        RecipeError: the labels are not the task's or the metric's, or there are no slices to judge.
    """
    for split in ("validation", "test"):
        metric = work.recipe.accept.metric
        check_labels(work.samples(split), work.student, work.task, split, metric)
    if work.recipe.accept.slices is not None and not work.slices:
        raise RecipeError(no_slices())


def step(work: Work, run: Run) -> Work:
    """The work with an agreement, or how it failed, for every open row."""
    if not any(row.open for row in work.rows):
        return work
    test, validation = work.samples("test"), work.samples("validation")
    inputs = joined(
        [split.take(ids)[0] for split in (test, validation) for ids in split.batches(512)]
    )
    references: dict[Which, dict[str, Tensor]] = {}
    rows = []
    for number, row in enumerate(work.rows):
        if row.open:
            run.tell("verify", f"{row.target} {row.candidate}", number + 1, len(work.rows))
            if row.network not in references:
                references[row.network] = outputs_of(work.network(row).module, test)
            row = _verified(row, work, run, inputs, references[row.network])
        rows.append(row)
    return replace(work, rows=tuple(rows))


class _DidNotRun(Exception):
    """Carries a failure out of the making of a result, which then is not kept."""

    def __init__(self, failed: Verdict) -> None:
        self.failed = failed


def _verified(
    row: Row, work: Work, run: Run, inputs: Inputs, reference: Mapping[str, Tensor]
) -> Row:
    target = work.goal(row).target
    artifact = row.artifact
    assert artifact is not None
    device = target.device or "local"
    count = len(next(iter(reference.values())))
    against = work.teacher_score or work.student_score
    labels = work.samples("test").labels()

    def make(folder: Path) -> None:
        ran = run_artifact(artifact, inputs, device)
        if isinstance(ran, Verdict):
            raise _DidNotRun(ran)
        here = target.evidence_on(ran.facts["machine"])
        agreement = compare(
            reference,
            {name: value[:count] for name, value in ran.outputs.items()},
            scheme=row.scheme,
            min_agreement=work.recipe.accept.min_agreement,
            evidence="reference" if ran.by_reference else here,
            runtime=ran.facts,
            task=work.task,
            labels=labels,
        )
        agreement = judged(agreement, work, ran.outputs, count)
        write_json(folder / "agreement.json", agreement.to_json())
        _write_worst(folder / "worst.npz", agreement.worst, inputs, reference, ran.outputs)

    key = {
        "artifact": artifact.sha256,
        "network": network_key(work.network(row)),
        "data": work.data_key,
        "target": [target.machine, target.evidence],
        "facts": device_facts(),
        "accept": work.recipe.accept.model_dump(),
        "against": against and [against.metric, dict(against.slices)],
        "slices": {name: ids.tolist() for name, ids in work.slices.items()},
        "task": work.task.name,
        "runtime": tool_versions(find_format(row.format).PACKAGES),
    }
    try:
        name = f"{row.target}-{row.candidate}"
        if device == "local":
            folder = run.make("verify", name, key, make).folder
        else:  # Another machine may have changed since: what it said is not used again.
            folder = run.fresh("verify", name, make)
    except _DidNotRun as error:
        failed = error.failed
        return replace(row, outcome=failed.outcome, detail=failed.detail, evidence=target.evidence)
    except EdgekdError as error:
        unreachable = isinstance(error, UnreachableError)
        outcome = Outcome.UNAVAILABLE if unreachable else Outcome.RUN_FAILED
        fault = error.faults[0]
        return replace(row, outcome=outcome, detail=f"{fault.what} {fault.got}")
    agreement = Agreement.from_json(json.loads((folder / "agreement.json").read_text()))
    closed = agreement.outcome if agreement.outcome is not Outcome.PASSED else None
    return replace(
        row,
        agreement=agreement,
        evidence=agreement.evidence,
        outcome=closed,
        detail=agreement.detail or row.detail,
    )


def _write_worst(
    path: Path,
    worst: Sequence[int],
    inputs: Inputs,
    reference: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
) -> None:
    """Writes the worst samples: `sample`, `input.NAME`, `expected.NAME` and `found.NAME`."""
    ids = torch.tensor(worst, dtype=torch.int64)
    arrays = {"sample": ids}
    for role, tensors in (("input", inputs), ("expected", reference), ("found", outputs)):
        arrays |= {f"{role}.{name}": value[ids] for name, value in tensors.items()}
    with written_atomically(path) as draft, draft.open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            **{name: value.numpy() for name, value in arrays.items()},
        )
