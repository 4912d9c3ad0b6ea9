"""Scores the teacher and the student of a run, with their scores cached in the run store."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from edgekd.distillation.black_box import BlackBox, OutputsTable
from edgekd.distillation.teachers import FILE_BATCH, Teacher
from edgekd.network.network import Network
from edgekd.pipeline.candidates.state import Scored, Work
from edgekd.tasks.evaluate import by_slice, count_macs, outputs_of, score


def scored_outputs(teacher: BlackBox | OutputsTable, work: Work) -> Scored | None:
    """The figures of a teacher that is a file; None for a table without the splits it takes."""
    test, validation = (split_outputs(teacher, work, split) for split in ("test", "validation"))
    if test is None or validation is None:
        return None
    metric, targets = work.task.metrics[work.recipe.accept.metric], work.samples("test").labels()
    return Scored(
        metric=metric(test, targets),
        validation_metric=metric(validation, work.samples("validation").labels()),
        parameters=None,
        macs=None,
        slices=by_slice(metric, test, targets, work.slices),
    )


def split_outputs(teacher: Teacher, work: Work, split: str) -> Tensor | None:
    """A teacher's first output on all of a split; None for a table without it."""
    samples = work.samples(split)
    if isinstance(teacher, Network):
        return outputs_of(teacher.module, samples)[teacher.signature.output_names[0]]
    if isinstance(teacher, OutputsTable):
        return teacher.rows(split) if split in teacher.splits else None
    ids = samples.batches(FILE_BATCH)
    return torch.cat([teacher.outputs(samples.take(some)[0]) for some in ids])


def scored_student(student: Network, work: Work) -> Scored:
    """The figures of a student, with how far it agrees with the first teacher."""
    found = scored(student, work)
    theirs = split_outputs(work.teacher, work, "test") if work.teachers else None
    if theirs is None:
        return found
    test = work.samples("test")
    ours = outputs_of(student.module, test)[student.signature.output_names[0]]
    agreement = work.task.agree(theirs, ours, test.labels())
    return replace(found, teacher_agreement=agreement)


def classes_of(teacher: Teacher, work: Work, split: str) -> Tensor:
    """The teacher's class of each sample of `split`, of which it has outputs."""
    outputs = split_outputs(teacher, work, split)
    assert outputs is not None
    return outputs.argmax(1)


def scored(network: Network, work: Work) -> Scored:
    """The figures of `network` on the work's data, by the recipe's metric."""
    output, name = network.signature.output_names[0], work.recipe.accept.metric
    test, metric = work.samples("test"), work.task.metrics[name]
    outputs, targets = outputs_of(network.module, test)[output], test.labels()
    return Scored(
        metric=metric(outputs, targets),
        validation_metric=score(
            network.module, output, work.samples("validation"), work.task, name
        ),
        slices=by_slice(metric, outputs, targets, work.slices),
        parameters=network.parameter_count,
        macs=count_macs(network),
    )
