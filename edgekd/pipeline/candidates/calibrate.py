"""The calibration samples of a run, selected and frozen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgekd.calibration.calibration_set import CalibrationSet, load_calibration
from edgekd.calibration.checks import doubts, off_scale
from edgekd.calibration.features import features_of
from edgekd.calibration.frozen_samples import (
    FILE,
    RECORD,
    calibration_samples,
    check_digest,
    read_frozen_samples,
    read_record,
)
from edgekd.data import Inputs, single
from edgekd.distillation.black_box import OutputsTable
from edgekd.distillation.teachers import FILE_BATCH, Teacher, outputs_on, teacher_key
from edgekd.errors import Fault, RecipeError
from edgekd.formats.quantization_methods import uses_samples
from edgekd.network.network import Network, network_key
from edgekd.pipeline.candidates.state import PipelineState
from edgekd.system.files import path_digest, write_json
from edgekd.system.store import Run
from edgekd.tasks.evaluate import outputs_of
from edgekd.training.distributed import one_after_the_first


def selection_key(state: PipelineState, selection: str) -> Any:
    """What the features of a selection depend on, as a JSON document."""
    if selection == "k-centre":
        return teacher_key(_feature_network(state)[0])
    return network_key(state.student) if selection == "highest-loss" else None


def selection_features(
    state: PipelineState, source: str, selection: str
) -> tuple[Tensor | None, Tensor | None, str]:
    """The features or the losses of the split `source`, and a description of them.

    Features are the input of the teacher's last layer that has weights; if that layer is unknown
    (a file, a table, an exported program), the teacher's output.
    """
    samples = state.samples(source)
    if selection == "k-centre":
        teacher, whose = _feature_network(state)
        if isinstance(teacher, OutputsTable):
            return teacher.rows(source).flatten(1), None, f"the table {teacher.reference}"
        if isinstance(teacher, Network):
            features, layer = features_of(teacher, samples)
            return features, None, f"{layer} of the {whose}"
        batches = [outputs_on(teacher, samples.take(ids)[0]) for ids in samples.batches(FILE_BATCH)]
        return torch.cat(batches).flatten(1), None, f"the output of {teacher.reference}"
    if selection == "highest-loss":
        output = state.student.signature.output_names[0]
        outputs, labels = outputs_of(state.student.module, samples)[output], samples.labels()
        losses = [
            state.task.loss(outputs[i : i + 1], labels[i : i + 1]) for i in range(len(labels))
        ]
        return None, torch.stack(losses), "the loss of the student against the labels"
    return None, None, ""


def _feature_network(state: PipelineState) -> tuple[Teacher, str]:
    """The network whose features are used: the teacher, or the student if it has embedded
    preprocessing, because the teacher does not take raw data."""
    if state.teacher is None or state.recipe.export.inputs:
        return state.student, "student"
    return state.teacher, "teacher"


COMPARED = 256
"""The number of training samples that the calibration samples are compared with."""


def calibrated(state: PipelineState, run: Run) -> PipelineState:
    """The state with its calibration samples, and doubts about them as notes of its candidates."""
    from safetensors.torch import load_file

    chosen = load_calibration(state.recipe.quantize.calibration, state.base)
    path, doubtful = freeze(state, run, chosen)
    check_digest(chosen, path)
    stacked = load_file(path)
    ordered = {name: stacked[name] for name in state.student.signature.input_names}
    candidates = (
        replace(candidate, notes=(*candidate.notes, *doubtful))
        if candidate.open and uses_samples(candidate.format, candidate.scheme, candidate.method)
        else candidate
        for candidate in state.candidates
    )
    return replace(state, calibration=tuple(single(ordered)), candidates=tuple(candidates))


def freeze(state: PipelineState, run: Run, chosen: CalibrationSet) -> tuple[Path, list[str]]:
    """The file of the set's samples in the run's folder, and doubts about them as sentences.

    A set with a file of its own keeps exactly those samples; otherwise they are selected now.

    Raises:
        RecipeError: the data has no such split, or the samples are unusable for calibration.
    """
    from safetensors.torch import save_file

    if chosen.frozen is None and getattr(state.data, chosen.source) is None:
        raise RecipeError(
            Fault(
                what=f"The data has no {chosen.source} split to calibrate with.",
                at=f"calibration set {chosen.name!r}: source",
                got=chosen.source,
                expected="a split of the data",
                fix="choose another source for the calibration set, or add the split to the data",
            )
        )
    key = {
        "set": chosen.to_json(),
        "frozen": path_digest(chosen.frozen) if chosen.frozen else None,
        "data": state.data_key,
        "seed": run.seed,
        "inputs": state.student.signature.input_names,
        "looked_at": None if chosen.frozen else selection_key(state, chosen.selection),
    }

    def make(folder: Path) -> None:
        description = chosen.looked_at
        if chosen.frozen is not None:
            check_digest(chosen, chosen.frozen)
            samples = read_frozen_samples(chosen, chosen.frozen, state.student)
        else:
            features, losses, description = selection_features(
                state, chosen.source, chosen.selection
            )
            samples = calibration_samples(
                state.student,
                state.samples(chosen.source),
                chosen,
                seed=run.seed,
                features=features,
                losses=losses,
            )
        training = _training_samples(state)
        faults = off_scale(samples, training, at=f"calibration set {chosen.name!r}")
        if faults:
            raise RecipeError(*faults)
        names = state.student.signature.input_names
        stacked = {name: torch.cat([sample[name] for sample in samples]) for name in names}
        save_file(stacked, folder / FILE)
        record = {
            **chosen.to_json(),
            "looked_at": description,
            "doubts": doubts(samples, training),
            "sha256": path_digest(folder / FILE),
        }
        write_json(folder / RECORD, record)

    with one_after_the_first():
        folder = run.make("quantize", "", key, make).folder
    doubtful = read_record(folder)["doubts"]
    for sentence in doubtful:
        run.progress("quantize", sentence)
    return folder / FILE, doubtful


def _training_samples(state: PipelineState) -> Inputs:
    """Training samples, spread evenly over the split."""
    samples = state.samples("train")
    count = min(COMPARED, len(samples))
    return samples.take(torch.arange(count) * len(samples) // count)[0]
