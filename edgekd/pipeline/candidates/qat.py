"""Trains the students of QAT candidates in a run."""

from __future__ import annotations

from dataclasses import replace

from edgekd.conversion.export import samples_digest
from edgekd.conversion.preprocessing import logits_of
from edgekd.distillation.qat import (
    QatResult,
    after_qat_step,
    finish_qat,
    method_of,
    prepare_qat,
    refusal,
    training_of,
)
from edgekd.distillation.teachers import Teacher
from edgekd.evidence.candidate import Candidate
from edgekd.evidence.outcome import Outcome
from edgekd.network.network import Network, network_key
from edgekd.pipeline.candidates.export import reduces_range
from edgekd.pipeline.candidates.state import PipelineState
from edgekd.pipeline.candidates.train import Distillation, distilled_once
from edgekd.recipe.training import Distill
from edgekd.system.store import Run


def train_candidates(state: PipelineState, run: Run) -> PipelineState:
    """The state with a student trained for every open QAT candidate, or the reason why not."""
    candidates = []
    for candidate in state.candidates:
        if candidate.network == "qat" and candidate.open:
            candidate, state = train_candidate(candidate, state, run)
        candidates.append(candidate)
    return replace(state, candidates=tuple(candidates))


def train_candidate(
    candidate: Candidate, state: PipelineState, run: Run
) -> tuple[Candidate, PipelineState]:
    """`candidate` and the state with its student trained; or `candidate` refused, with why."""
    why = refusal(state.student, candidate.format)
    if why is not None:
        return replace(candidate, outcome=Outcome.REFUSED, detail=why), state
    result = qat_result(candidate, state, run)
    state = replace(state, qat={**state.qat, candidate.target: result})
    return replace(candidate, method=result.method), state


def qat_result(candidate: Candidate, state: PipelineState, run: Run) -> QatResult:
    """The QAT student for the file of `candidate`, trained now or by an earlier run."""
    student, format = state.student, candidate.format
    reduce_range = reduces_range(state.deployment(candidate).target, candidate)
    logits = logits_of(student)
    distillation = Distillation(
        teachers=_teachers(logits, state),
        student=prepare_qat(logits, format, state.calibration, reduce_range=reduce_range),
        config=_training(logits, state),
        after_step=after_qat_step,
        depends_on={
            "student": network_key(logits),
            "format": format,
            "method": method_of(logits, format),
            "reduce_range": reduce_range,
            "calibration": samples_digest(state.calibration),
        },
    )
    name = f"trained-{format}-{7 if reduce_range else 8}-bit"
    trained = distilled_once(distillation, state, run, stage="quantize", name=name)
    return finish_qat(trained, student, format, state.calibration, reduce_range=reduce_range)


def _training(logits: Network, state: PipelineState) -> Distill:
    config = state.recipe.quantize
    return training_of(
        logits, config.qat_epochs, config.qat_learning_rate, like=state.recipe.distill
    )


def _teachers(logits: Network, state: PipelineState) -> list[tuple[Teacher, float]]:
    wanted = state.recipe.quantize.qat_from
    teachers: list[tuple[Teacher, float]] = [] if wanted == "float" else list(state.teachers)
    return teachers if wanted == "teacher" else [*teachers, (logits, 1.0)]
