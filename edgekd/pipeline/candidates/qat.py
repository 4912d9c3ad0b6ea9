"""Candidates of the student trained to be rounded as their files round."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekd.conversion.export import samples_digest
from edgekd.conversion.preprocessing import logits_of
from edgekd.distillation.qat import (
    QatResult,
    finish_qat,
    method_of,
    prepare_qat,
    refusal,
    train_quantized,
    training_of,
)
from edgekd.distillation.teachers import Teacher, teacher_key
from edgekd.evidence.candidate import Candidate
from edgekd.evidence.outcome import Outcome
from edgekd.network.network import Network, network_key
from edgekd.pipeline.candidates.export import bits_on
from edgekd.pipeline.candidates.state import PipelineState
from edgekd.recipe.training import Distill
from edgekd.system.files import digest
from edgekd.system.store import Run
from edgekd.training.cache import trained_once
from edgekd.training.loggers import recorder
from edgekd.training.loop import Record


def train_candidates(state: PipelineState, run: Run) -> PipelineState:
    """The work with a student trained for every open row of one, or with why there is none."""
    candidates = []
    for candidate in state.candidates:
        if candidate.network == "quantized" and candidate.open:
            candidate, state = train_row(candidate, state, run)
        candidates.append(candidate)
    return replace(state, candidates=tuple(candidates))


def train_row(
    candidate: Candidate, state: PipelineState, run: Run
) -> tuple[Candidate, PipelineState]:
    """`candidate` and the work with a student trained for it, or the row with why there is none."""
    why = refusal(state.student, candidate.format)
    if why is not None:
        return replace(candidate, outcome=Outcome.REFUSED, detail=why), state
    tuned = trained_for(candidate, state, run)
    state = replace(state, quantized={**state.quantized, candidate.target: tuned})
    return replace(candidate, method=tuned.method), state


def trained_for(candidate: Candidate, state: PipelineState, run: Run) -> QatResult:
    """The QAT student for the file of `candidate`, trained now or by an earlier run."""
    student, format = state.student, candidate.format
    weight_bits = bits_on(state.deployment(candidate).target, candidate)
    bare = logits_of(student)
    training = _training(state, bare)
    teachers = _teachers(bare, state)
    untrained = prepare_qat(bare, format, state.calibration, weight_bits=weight_bits)
    views = run.seed if state.data.augment is not None else None
    key: dict[str, Any] = {
        "teachers": [[teacher_key(teacher), weight] for teacher, weight in teachers],
        "student": network_key(bare),
        "format": format,
        "method": method_of(bare, format),
        "weight_bits": weight_bits,
        "training": training.model_dump(),
        "calibration": samples_digest(state.calibration),
        "data": state.data_key,
        "seed": run.seed,
    }

    def work_on(folder: Path) -> tuple[Network, list[Record]]:
        history: list[Record] = []
        trained = train_quantized(
            untrained,
            state.data,
            training,
            teachers,
            task=state.task,
            metric=state.recipe.accept.metric,
            seed=run.seed,
            progress=recorder(run, "quantize", folder),
            log=lambda sentence: run.progress("quantize", sentence),
            checkpoint=folder / "checkpoint.pt",
            cache=run.store / "teacher_outputs" / digest([state.data_key, views])[:16],
            history=history,
        )
        return trained, history

    name = f"trained-{format}-{weight_bits}-bit"
    trained = trained_once(run, "quantize", key, untrained, work_on, name=name, together=True)
    return finish_qat(trained, student, format, state.calibration, weight_bits=weight_bits)


def _training(state: PipelineState, bare: Network) -> Distill:
    config = state.recipe.quantize
    return training_of(bare, config.qat_epochs, config.qat_learning_rate, like=state.recipe.distill)


def _teachers(bare: Network, state: PipelineState) -> list[tuple[Teacher, float]]:
    wanted = state.recipe.quantize.qat_from
    teachers: list[tuple[Teacher, float]] = [] if wanted == "float" else list(state.teachers)
    return teachers if wanted == "teacher" else [*teachers, (bare, 1.0)]
