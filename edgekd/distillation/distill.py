"""Distillation: trains a student with its teachers by a weighted sum of losses."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.data import Data, Inputs, Mixed, Samples
from edgekd.distillation.black_box import OutputsTable
from edgekd.distillation.objective import Term, outputs_only, plan_terms, tried
from edgekd.distillation.teachers import (
    Teacher,
    Teachers,
    check_table,
    frozen,
    outputs_on,
    teacher_key,
)
from edgekd.errors import Fault, RecipeError
from edgekd.network.activations import Observed, observe
from edgekd.network.network import Network, renamed
from edgekd.recipe.training import Distill
from edgekd.system.deprecation import with_deprecated
from edgekd.system.notebook_progress import default_progress
from edgekd.tasks import TASKS, Task
from edgekd.tasks.evaluate import check_labels, score
from edgekd.training.distributed import join
from edgekd.training.loop import Batch, fit, format_record
from edgekd.training.options import EpochProgress, TrainingOptions
from edgekd.training.schedule import augmented

TRIAL_SAMPLES = 4
"""Samples that every loss is tried on before any work."""


def distill(
    teacher: Teacher | Sequence[tuple[Teacher, float]] | None,
    student: Network,
    data: Data,
    config: Distill,
    *,
    task: Task = TASKS["classification"],
    metric: str = "accuracy",
    seed: int = 0,
    options: TrainingOptions | None = None,
    **deprecated: Any,
) -> Network:
    """A copy of `student` trained with `teacher`, after the last epoch.

    The teacher stays in eval mode, gets no gradients and is not changed. Teacher and student see
    the same view of a sample. Under `torchrun` all processes train one student, and
    `config.batch_size` is the sum over them.

    Args:
        teacher: one, several with their weights, or None if every loss compares only labels or the
            student's own tensors.
        metric: the task's metric that is recorded on the validation split after each epoch.
        options: progress callbacks, and the paths of the checkpoint and the teacher's outputs.
        deprecated: fields of `TrainingOptions`, with a warning; pass `options` instead.

    Raises:
        RecipeError: a loss does not accept the tensors it compares, or is not finite.
    """
    join()
    options = with_deprecated(
        options or TrainingOptions(),
        deprecated,
        function="edgekd.distill",
        renamed={"tell": "progress", "say": "log"},
    )
    teachers = _teacher_list(teacher)
    module = copy.deepcopy(student.module)
    names = tuple(student.signature.input_names)
    samples = _samples(data, names)
    validation = Samples(data.validation, names)
    output = student.signature.output_names[0]
    terms = planned(teachers, student, data, config, task=task, seed=seed)
    teacher_outputs = _teachers(
        teachers, samples, data, config, terms, task=task, seed=seed, options=options
    )
    observed = Observed(
        module,
        names,
        {term.key(name): tap or output for term in terms for name, tap in _student_taps(term)},
        {term.key(name): part for term in terms for name, part in term.projectors.items()},
    )

    def loss_of(outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        targets = teacher_outputs(batch)
        return {term.name: term.value(outputs, targets, batch) for term in terms}

    after_step = options.after_step
    with teacher_outputs.frozen():
        fit(
            observed,
            loss_of,
            samples,
            config,
            seed=seed,
            view=augmented(data.augment, seed, teacher_outputs.view_of),
            validate=lambda _: {metric: score(module, output, validation, task, metric)},
            options=replace(
                options,
                progress=options.progress or _notebook_progress(),
                after_step=None if after_step is None else lambda _: after_step(module),
                together=True,
            ),
        )
    observed.release()
    return student.with_module(module)


def _notebook_progress() -> EpochProgress:
    """Draws the progress of each epoch if a notebook's cell is running."""
    progress = default_progress()
    return lambda done, total, record: progress("distill", format_record(record), done, total)


def _teachers(
    teachers: Sequence[tuple[Teacher, float]],
    samples: Samples | Mixed,
    data: Data,
    config: Distill,
    terms: Sequence[Term],
    *,
    task: Task,
    seed: int,
    options: TrainingOptions,
) -> Teachers:
    """The teachers with the tensors that the terms need; none if no term needs a teacher."""
    taps = list(dict.fromkeys(tap for term in terms for tap in _teacher_taps(term)))
    found = Teachers(
        teachers if taps else [],
        samples,
        data,
        config,
        seed=seed,
        taps=taps,
        classes_axis=task.classes_axis,
        options=options,
    )
    if found.inner and config.teacher_outputs == "cached":
        options.log(f"the teacher runs at every step: losses need its {', '.join(found.inner)}")
    return found


def planned(
    teacher: Teacher | Sequence[tuple[Teacher, float]] | None,
    student: Network,
    data: Data,
    config: Distill,
    *,
    task: Task,
    seed: int = 0,
) -> list[Term]:
    """The terms of the loss, tried on a few samples of the data with these networks.

    Raises:
        RecipeError: a layer does not exist, a loss does not accept the tensors it compares, the
            teacher takes other inputs, or a label does not fit the task. All faults are reported.
    """
    teachers = _teacher_list(teacher)
    for network, _ in teachers:
        if isinstance(network, OutputsTable):
            check_table(network, data)
    samples = Samples(data.train, tuple(student.signature.input_names))
    ids = torch.arange(min(TRIAL_SAMPLES, len(samples)))
    inputs, labels = samples.take(ids)
    terms = plan_terms(config.losses, task)
    output = student.signature.output_names[0]
    check_labels(samples, student, task, "train")

    def of_student(taps: Sequence[str], at: str) -> dict[str, Tensor]:
        tensors = _observed(student.module, inputs, [tap or output for tap in taps], at)
        return {tap: tensors[tap or output] for tap in taps}

    def of_teacher(taps: Sequence[str], at: str) -> dict[str, Tensor]:
        if taps == [""]:
            outputs = [_first_output(network, inputs, ids) for network, _ in teachers]
            _check_same_shape(outputs)
            return {"": outputs[0]}
        first = teachers[0][0]
        if not isinstance(first, Network):
            raise RecipeError(outputs_only(str(teacher_key(first)), taps[0], at))
        return _observed(first.module, renamed(inputs, first), taps, at)

    assert labels is not None
    return tried(terms, of_student, of_teacher, labels, seed=seed)


def _teacher_list(
    teacher: Teacher | Sequence[tuple[Teacher, float]] | None,
) -> list[tuple[Teacher, float]]:
    if teacher is None:
        return []
    return list(teacher) if isinstance(teacher, Sequence) else [(teacher, 1.0)]


def _samples(data: Data, names: tuple[str, ...]) -> Samples | Mixed:
    labelled = Samples(data.train, names)
    if data.unlabeled is None:
        return labelled
    return Mixed(labelled, Samples(data.unlabeled, names, labelled=False))


def _student_taps(term: Term) -> list[tuple[str, str]]:
    return [(name, tap) for name, tap in term.taps.items() if term.of_student(name)]


def _teacher_taps(term: Term) -> list[str]:
    return [tap for name, tap in term.taps.items() if not term.of_student(name)]


def _observed(module: nn.Module, inputs: Inputs, taps: Sequence[str], at: str) -> dict[str, Tensor]:
    device = next((entry.device for entry in module.parameters()), torch.device("cpu"))
    moved = {name: tensor.to(device) for name, tensor in inputs.items()}
    with frozen(module), torch.no_grad():
        tensors = observe(module, moved, taps, at=at)
    return {tap: value.cpu() for tap, value in tensors.items()}


def _first_output(teacher: Teacher, inputs: Inputs, ids: Tensor) -> Tensor:
    if isinstance(teacher, Network):
        with frozen(teacher.module):
            return outputs_on(teacher, inputs)
    if isinstance(teacher, OutputsTable):
        return teacher.rows("train")[ids]
    return outputs_on(teacher, inputs)


def _check_same_shape(outputs: Sequence[Tensor]) -> None:
    if len({tuple(tensor.shape) for tensor in outputs}) > 1:
        raise RecipeError(
            Fault(
                what="The teachers' outputs differ in shape.",
                at="distill.more_teachers",
                got=", ".join(str(tuple(tensor.shape)) for tensor in outputs),
                expected="outputs of one shape",
                fix="use teachers with the same classes",
            )
        )
