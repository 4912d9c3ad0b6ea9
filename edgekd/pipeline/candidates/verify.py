"""Verifies the candidates of a run on their devices, and records their agreement."""

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
from edgekd.evidence.agreement import Agreement, with_disagreement
from edgekd.evidence.candidate import Candidate, NetworkRole
from edgekd.evidence.outcome import Outcome, Verdict
from edgekd.evidence.routing import DECISIONS
from edgekd.formats import find_format
from edgekd.network.network import network_key
from edgekd.pipeline.candidates.acceptance import apply_acceptance
from edgekd.pipeline.candidates.state import PipelineState
from edgekd.system.files import write_json, written_atomically
from edgekd.system.packages import tool_versions
from edgekd.system.store import Run
from edgekd.tasks.evaluate import outputs_of
from edgekd.verification.compare import compare
from edgekd.verification.simulation_match import mismatch


def verify_candidates(
    candidates: Sequence[Candidate], state: PipelineState, run: Run
) -> list[Candidate]:
    """`candidates`, the open ones with an agreement or with the outcome of a failure."""
    if not any(candidate.open for candidate in candidates):
        return list(candidates)
    test, validation = state.samples("test"), state.samples("validation")
    inputs = joined(
        [split.take(ids)[0] for split in (test, validation) for ids in split.batches(512)]
    )
    references: dict[NetworkRole, dict[str, Tensor]] = {}
    verified = []
    for number, candidate in enumerate(candidates):
        if candidate.open:
            run.progress(
                "verify", f"{candidate.target} {candidate.name}", number + 1, len(candidates)
            )
            if candidate.network not in references:
                references[candidate.network] = outputs_of(state.original(candidate).module, test)
            candidate = _verified(candidate, state, run, inputs, references[candidate.network])
        verified.append(candidate)
    return verified


class _DidNotRun(Exception):
    """Carries a failure past the run store, which must not keep it."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict


def _verified(
    candidate: Candidate,
    state: PipelineState,
    run: Run,
    inputs: Inputs,
    reference: Mapping[str, Tensor],
) -> Candidate:
    target = state.deployment(candidate).target
    artifact = candidate.artifact
    assert artifact is not None
    device = target.device or "local"
    on_host = not gives_outputs(device)
    if on_host:  # A device that only measures latencies gives no outputs.
        device = "local"
    count = len(next(iter(reference.values())))
    against = state.teacher_score or state.student_score
    labels = state.samples("test").labels()

    def make(folder: Path) -> None:
        ran = run_artifact(artifact, inputs, device)
        if isinstance(ran, Verdict):
            raise _DidNotRun(ran)
        here: Evidence = "host" if on_host else target.evidence_on(ran.facts["machine"])
        agreement = compare(
            reference,
            {name: value[:count] for name, value in ran.outputs.items()},
            # After QAT the simulation is the reference: the float network is not.
            scheme=candidate.scheme if candidate.network != "qat" else None,
            min_agreement=state.recipe.accept.min_agreement,
            evidence="reference" if ran.by_reference else here,
            runtime=ran.facts,
            task=state.task,
            labels=labels,
        )
        if candidate.network == "qat":
            agreement = _as_simulated(agreement, state, candidate, ran.outputs, count)
        agreement = apply_acceptance(agreement, state, ran.outputs, count)
        write_json(folder / "agreement.json", agreement.to_json())
        _write_worst(folder / "worst.npz", agreement.worst, inputs, reference, ran.outputs)
        _write_decisions(folder / DECISIONS, state, reference, ran.outputs)

    key = {
        "artifact": artifact.sha256,
        "network": network_key(state.network(candidate)),
        "original": state.original(candidate).weights_digest(),
        "data": state.data_key,
        "target": [target.machine, target.evidence],
        "facts": device_facts(),
        "accept": state.recipe.accept.model_dump(),
        "against": against and [against.metric, dict(against.slices)],
        "slices": {name: ids.tolist() for name, ids in state.slices.items()},
        "task": state.task.name,
        "runtime": tool_versions(find_format(candidate.format).PACKAGES),
    }
    try:
        name = f"{candidate.target}-{candidate.name}"
        if device == "local":
            folder = run.make("verify", name, key, make).folder
        else:  # Another machine may have changed since: its results are not reused.
            folder = run.fresh("verify", name, make)
    except _DidNotRun as error:
        verdict = error.verdict
        return replace(
            candidate, outcome=verdict.outcome, detail=verdict.detail, evidence=target.evidence
        )
    except EdgekdError as error:
        unreachable = isinstance(error, UnreachableError)
        outcome = Outcome.UNAVAILABLE if unreachable else Outcome.RUN_FAILED
        fault = error.faults[0]
        return replace(candidate, outcome=outcome, detail=f"{fault.what} {fault.got}")
    agreement = Agreement.from_json(json.loads((folder / "agreement.json").read_text()))
    closed = agreement.outcome if agreement.outcome is not Outcome.PASSED else None
    return replace(
        candidate,
        agreement=agreement,
        evidence=agreement.evidence,
        outcome=closed,
        detail=agreement.detail or candidate.detail,
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
    path: Path, state: PipelineState, reference: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
) -> None:
    """Writes an artifact's decisions, by sample, if its first output is a vector of classes.

    The arrays are `test_class` and `test_probability` (the largest one), the same of `validation`,
    and of the test split the network's `reference_class` and the `label`.
    """
    first = next(iter(reference))
    expected, logits = reference[first], outputs[first]
    if logits.ndim != 2 or logits.shape[1] < 2 or not logits.is_floating_point():
        return
    probabilities = logits.double()
    if state.recipe.export.outputs != "probabilities":
        probabilities = probabilities.softmax(1)
    probability, decided = probabilities.max(1)
    count = len(expected)
    arrays = {
        "test_class": decided[:count],
        "test_probability": probability[:count],
        "validation_class": decided[count:],
        "validation_probability": probability[count:],
        "reference_class": expected.argmax(1),
        "label": state.samples("test").labels(),
    }
    with written_atomically(path) as draft, draft.open("wb") as file:
        np.savez(
            file, allow_pickle=False, **{name: value.numpy() for name, value in arrays.items()}
        )


def _as_simulated(
    agreement: Agreement,
    state: PipelineState,
    candidate: Candidate,
    outputs: Mapping[str, Tensor],
    count: int,
) -> Agreement:
    """`agreement` with the SQNR against the fake-quantized network of QAT."""
    result, test = state.qat[candidate.target], state.samples("test")
    assert candidate.artifact is not None
    params = candidate.artifact.quantization
    simulated = outputs_of(result.simulated.module, test)
    arrays = {name: value.numpy() for name, value in simulated.items()}
    # The rounding of integer outputs is not part of the simulation.
    rounded = as_values(as_numbers(arrays, params), params)
    near_db, why = mismatch(
        {name: value[:count] for name, value in outputs.items()},
        {name: torch.from_numpy(value) for name, value in rounded.items()},
        outputs_of(result.network.module, test),
    )
    agreement = replace(agreement, simulation_db=near_db)
    return with_disagreement(agreement, why) if why else agreement
