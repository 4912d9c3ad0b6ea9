"""Scores the teacher and the student of a run with the recipe's metric."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from edgekd.distillation.black_box import BlackBox, OutputsTable
from edgekd.distillation.teachers import FILE_BATCH, Teacher
from edgekd.network.network import Network
from edgekd.pipeline.candidates.state import PipelineState, Scored
from edgekd.tasks.evaluate import by_slice, count_macs, outputs_of, score


def scored_outputs(teacher: BlackBox | OutputsTable, state: PipelineState) -> Scored | None:
    """The score of a black-box teacher; None for a table without both splits."""
    test, validation = (split_outputs(teacher, state, split) for split in ("test", "validation"))
    if test is None or validation is None:
        return None
    metric, targets = state.task.metrics[state.recipe.accept.metric], state.samples("test").labels()
    return Scored(
        metric=metric(test, targets),
        validation_metric=metric(validation, state.samples("validation").labels()),
        parameters=None,
        macs=None,
        slices=by_slice(metric, test, targets, state.slices),
    )


def split_outputs(teacher: Teacher, state: PipelineState, split: str) -> Tensor | None:
    """A teacher's first output on a whole split; None for a table without that split."""
    samples = state.samples(split)
    if isinstance(teacher, Network):
        return outputs_of(teacher.module, samples)[teacher.signature.output_names[0]]
    if isinstance(teacher, OutputsTable):
        return teacher.rows(split) if split in teacher.splits else None
    ids = samples.batches(FILE_BATCH)
    return torch.cat([teacher.outputs(samples.take(some)[0]) for some in ids])


def scored_student(student: Network, state: PipelineState) -> Scored:
    """The score of a student, with its agreement with the first teacher."""
    figures = scored(student, state)
    theirs = split_outputs(state.teacher, state, "test") if state.teachers else None
    if theirs is None:
        return figures
    test = state.samples("test")
    ours = outputs_of(student.module, test)[student.signature.output_names[0]]
    agreement = state.task.agreement(theirs, ours, test.labels())
    return replace(figures, teacher_agreement=agreement)


def classes_of(teacher: Teacher, state: PipelineState, split: str) -> Tensor:
    """The teacher's predicted class of each sample of `split`."""
    outputs = split_outputs(teacher, state, split)
    assert outputs is not None
    return outputs.argmax(1)


def scored(network: Network, state: PipelineState) -> Scored:
    """The score of `network` on the run's data."""
    output, name = network.signature.output_names[0], state.recipe.accept.metric
    test, metric = state.samples("test"), state.task.metrics[name]
    outputs, targets = outputs_of(network.module, test)[output], test.labels()
    return Scored(
        metric=metric(outputs, targets),
        validation_metric=score(
            network.module, output, state.samples("validation"), state.task, name
        ),
        slices=by_slice(metric, outputs, targets, state.slices),
        parameters=network.parameter_count,
        macs=count_macs(network),
    )
