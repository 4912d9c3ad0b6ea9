"""Verifies the candidates of a run on their devices and records the agreement in their rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgekd.artifacts.quantization_params import as_numbers, as_values
from edgekd.artifacts.target import Evidence
from edgekd.data import Inputs, joined
from edgekd.devices.execution import run_artifact
from edgekd.devices.on_device.agent import device_facts
from edgekd.devices.transport.url import gives_outputs
from edgekd.errors import EdgekdError, UnreachableError
from edgekd.evidence.agreement import Agreement, disagreeing
from edgekd.evidence.candidate import Row, Which
from edgekd.evidence.outcome import Outcome, Verdict
from edgekd.evidence.routing import DECISIONS
from edgekd.formats import find_format
from edgekd.network.network import network_key
from edgekd.pipeline.candidates.acceptance import judged
from edgekd.pipeline.candidates.state import Work
from edgekd.quantization.simulation_match import mismatch
from edgekd.system.files import write_json, written_atomically
from edgekd.system.packages import tool_versions
from edgekd.system.store import Run
from edgekd.tasks.evaluate import outputs_of
from edgekd.verification.compare import compare


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
