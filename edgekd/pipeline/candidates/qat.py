"""Candidates of the student trained to be rounded as their files round."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekd.conversion.export import samples_digest
from edgekd.conversion.preprocessing import logits_of
from edgekd.distillation.qat import Tuned, method_of, refusal, simulate, training_of, tune, tuned_by
from edgekd.distillation.teachers import Teacher, teacher_key
from edgekd.evidence.candidate import Row
from edgekd.evidence.outcome import Outcome
from edgekd.network.network import Network, network_key
from edgekd.pipeline.candidates.export import bits_on
from edgekd.pipeline.candidates.state import Work
from edgekd.recipe.training import Distill
from edgekd.system.files import digest
from edgekd.system.store import Run
from edgekd.training.cache import trained_once
from edgekd.training.loggers import recorder
from edgekd.training.loop import Record


def train_rows(work: Work, run: Run) -> Work:
    """The work with a student trained for every open row of one, or with why there is none."""
    rows = []
    for row in work.rows:
        if row.network == "quantized" and row.open:
            row, work = train_row(row, work, run)
        rows.append(row)
    return replace(work, rows=tuple(rows))


def train_row(row: Row, work: Work, run: Run) -> tuple[Row, Work]:
    """`row` and the work with a student trained for it, or the row with why there is none."""
    why = refusal(work.student, row.format)
    if why is not None:
        return replace(row, outcome=Outcome.REFUSED, detail=why), work
    tuned = trained_for(row, work, run)
    work = replace(work, quantized={**work.quantized, row.target: tuned})
    return replace(row, method=tuned.method), work


def trained_for(row: Row, work: Work, run: Run) -> Tuned:
    """The student trained to be rounded as the file of `row` will be, now or by an earlier run."""
    student, format = work.student, row.format
    weight_bits = bits_on(work.goal(row).target, row)
    bare = logits_of(student)
    training = _training(work, bare)
    teachers = _teachers(bare, work)
    untrained = simulate(bare, format, work.calibration, weight_bits=weight_bits)
    views = run.seed if work.data.augment is not None else None
    key: dict[str, Any] = {
        "teachers": [[teacher_key(teacher), weight] for teacher, weight in teachers],
        "student": network_key(bare),
        "format": format,
        "method": method_of(bare, format),
        "weight_bits": weight_bits,
        "training": training.model_dump(),
        "calibration": samples_digest(work.calibration),
        "data": work.data_key,
        "seed": run.seed,
    }

    def work_on(folder: Path) -> tuple[Network, list[Record]]:
        history: list[Record] = []
        trained = tune(
            untrained,
            work.data,
            training,
            teachers,
            task=work.task,
            metric=work.recipe.accept.metric,
            seed=run.seed,
            tell=recorder(run, "quantize", folder),
            say=lambda sentence: run.tell("quantize", sentence),
            checkpoint=folder / "checkpoint.pt",
            cache=run.store / "teacher_outputs" / digest([work.data_key, views])[:16],
            history=history,
        )
        return trained, history

    name = f"trained-{format}-{weight_bits}-bit"
    trained = trained_once(run, "quantize", key, untrained, work_on, name=name, together=True)
    return tuned_by(trained, student, format, work.calibration, weight_bits=weight_bits)


def _training(work: Work, bare: Network) -> Distill:
    config = work.recipe.quantize
    return training_of(bare, config.qat_epochs, config.qat_learning_rate, like=work.recipe.distill)


def _teachers(bare: Network, work: Work) -> list[tuple[Teacher, float]]:
    wanted = work.recipe.quantize.qat_from
    teachers: list[tuple[Teacher, float]] = [] if wanted == "float" else list(work.teachers)
    return teachers if wanted == "teacher" else [*teachers, (bare, 1.0)]
