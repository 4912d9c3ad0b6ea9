"""Files run in their own runtimes on real samples, and compared with their networks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgekd.data import Inputs, joined
from edgekd.devices.agent import device_facts
from edgekd.devices.options import gives_outputs
from edgekd.errors import ConversionError, EdgekdError, Fault, UnreachableError, listed
from edgekd.evaluate import outputs_of
from edgekd.evidence import Agreement, Outcome, Row, Verdict, Which
from edgekd.execution import run_artifact
from edgekd.formats import find_format
from edgekd.gate import disagreeing, judged
from edgekd.integers import as_numbers, as_values
from edgekd.need import tool_versions
from edgekd.quantization.fidelity import mismatch
from edgekd.routing import DECISIONS
from edgekd.scheme import SCHEMES
from edgekd.store import Run, write_json, written_atomically
from edgekd.target import Evidence
from edgekd.task import TASKS, Task
from edgekd.trained import network_key
from edgekd.work import Work


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


def verify_rows(rows: Sequence[Row], work: Work, run: Run) -> list[Row]:
    """`rows`, those that are open with an agreement, or with how they failed."""
    if not any(row.open for row in rows):
        return list(rows)
    test, validation = work.samples("test"), work.samples("validation")
    inputs = joined(
        [split.take(ids)[0] for split in (test, validation) for ids in split.batches(512)]
    )
    references: dict[Which, dict[str, Tensor]] = {}
    judged = []
    for number, row in enumerate(rows):
        if row.open:
            run.tell("verify", f"{row.target} {row.candidate}", number + 1, len(rows))
            if row.network not in references:
                references[row.network] = outputs_of(work.original(row).module, test)
            row = _verified(row, work, run, inputs, references[row.network])
        judged.append(row)
    return judged


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
    stood_in = not gives_outputs(device)
    if stood_in:  # What is only timed there gives its outputs here.
        device = "local"
    count = len(next(iter(reference.values())))
    against = work.teacher_score or work.student_score
    labels = work.samples("test").labels()

    def make(folder: Path) -> None:
        ran = run_artifact(artifact, inputs, device)
        if isinstance(ran, Verdict):
            raise _DidNotRun(ran)
        here: Evidence = "host" if stood_in else target.evidence_on(ran.facts["machine"])
        agreement = compare(
            reference,
            {name: value[:count] for name, value in ran.outputs.items()},
            # Of a network that was trained to be rounded, the simulation says whether it is broken.
            scheme=row.scheme if row.network != "quantized" else None,
            min_agreement=work.recipe.accept.min_agreement,
            evidence="reference" if ran.by_reference else here,
            runtime=ran.facts,
            task=work.task,
            labels=labels,
        )
        if row.network == "quantized":
            agreement = _as_simulated(agreement, work, row, ran.outputs, count)
        agreement = judged(agreement, work, ran.outputs, count)
        write_json(folder / "agreement.json", agreement.to_json())
        _write_worst(folder / "worst.npz", agreement.worst, inputs, reference, ran.outputs)
        _write_decisions(folder / DECISIONS, work, reference, ran.outputs)

    key = {
        "artifact": artifact.sha256,
        "network": network_key(work.network(row)),
        "original": work.original(row).weights_digest(),
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


def _write_decisions(
    path: Path, work: Work, reference: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
) -> None:
    """Writes what an artifact decided, by sample: `test_class` and `test_probability`, the largest,
    the same of `validation`, the network's `reference_class`, and `label`, both of the test split.

    Nothing where the first output is none of classes.
    """
    first = next(iter(reference))
    wanted, found = reference[first], outputs[first]
    if found.ndim != 2 or found.shape[1] < 2 or not found.is_floating_point():
        return
    given = found.double()
    if work.recipe.export.outputs != "probabilities":
        given = given.softmax(1)
    probability, decided = given.max(1)
    count = len(wanted)
    arrays = {
        "test_class": decided[:count],
        "test_probability": probability[:count],
        "validation_class": decided[count:],
        "validation_probability": probability[count:],
        "reference_class": wanted.argmax(1),
        "label": work.samples("test").labels(),
    }
    with written_atomically(path) as draft, draft.open("wb") as file:
        np.savez(
            file, allow_pickle=False, **{name: value.numpy() for name, value in arrays.items()}
        )


def _as_simulated(
    agreement: Agreement, work: Work, row: Row, outputs: Mapping[str, Tensor], count: int
) -> Agreement:
    """`agreement`, and whether the file gives what the network gave when it was trained."""
    tuned, test = work.quantized[row.target], work.samples("test")
    assert row.artifact is not None
    steps = row.artifact.quantization
    simulated = outputs_of(tuned.simulated.module, test)
    arrays = {name: value.numpy() for name, value in simulated.items()}
    # What rounding to the file's own outputs costs was not trained.
    rounded = as_values(as_numbers(arrays, steps), steps)
    near_db, why = mismatch(
        {name: value[:count] for name, value in outputs.items()},
        {name: torch.from_numpy(value) for name, value in rounded.items()},
        outputs_of(tuned.network.module, test),
    )
    agreement = replace(agreement, simulation_db=near_db)
    return disagreeing(agreement, why) if why else agreement
