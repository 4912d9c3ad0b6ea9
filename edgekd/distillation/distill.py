"""A student taught by its teacher, with any losses: what a stage, or a user's own code, calls."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

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
from edgekd.system.notebook_progress import default_progress
from edgekd.tasks import TASKS, Task
from edgekd.tasks.evaluate import check_labels, score
from edgekd.training.distributed import join
from edgekd.training.loop import (
    Batch,
    EpochProgress,
    Record,
    fit,
    format_record,
    no_message,
)

TRIED_ON = 4
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
    progress: EpochProgress | None = None,
    log: Callable[[str], None] = no_message,
    checkpoint: Path | None = None,
    cache: Path | None = None,
    history: list[Record] | None = None,
    after_step: Callable[[nn.Module], None] | None = None,
) -> Network:
    """A copy of `student` taught by `teacher`, as the last epoch left it.

    The teacher is asked in eval mode, without gradients, and is not changed by a bit. Teacher and
    student see the very same view of a sample. Under `torchrun` all processes train one student;
    `config.batch_size` is that of all.

    Args:
        teacher: one, several with their weights, or None where every loss needs labels alone or
            the student's own tensors.
        metric: of the task; recorded on the validation split after each epoch.
        tell: called after each epoch with (epochs done, epochs, record). Without it that is drawn
            under the cell of a notebook, and elsewhere nowhere.
        say: told, in a sentence, what is being done, and what was asked for and cannot be had.
        checkpoint: where the state is kept after each epoch, and read from if it is there.
        cache: a folder for the teachers' outputs on these very data; without it, memory is used.
        history: what each epoch came to is added to it.
        after_step: called with the student's module after each step of the optimizer: it keeps
            pruned weights at zero.

    Raises:
        RecipeError: a loss does not take what it is to compare, or is not finite.
    """
    join()
    teachers = _listed(teacher)
    module = copy.deepcopy(student.module)
    names = tuple(student.signature.input_names)
    samples = _samples(data, names)
    validation = Samples(data.validation, names)
    output = student.signature.output_names[0]
    terms = planned(teachers, student, data, config, task=task, seed=seed)
    asked = _asked(
        teachers, samples, data, config, terms, task=task, seed=seed, cache=cache, log=log
    )
    observed = Observed(
        module,
        names,
        {term.key(name): tap or output for term in terms for name, tap in _student_taps(term)},
        {term.key(name): part for term in terms for name, part in term.projectors.items()},
    )

    def loss_of(outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        theirs = asked(batch)
        return {term.name: term.value(outputs, theirs, batch) for term in terms}

    with asked.frozen():
        records = fit(
            observed,
            loss_of,
            samples,
            config,
            seed=seed,
            augment=data.augment,
            view_of=asked.view_of,
            validate=lambda _: {metric: score(module, output, validation, task, metric)},
            progress=progress or _drawn(),
            log=log,
            checkpoint=checkpoint,
            together=True,
            after_step=None if after_step is None else lambda _: after_step(module),
        )
    observed.release()
    if history is not None:
        history.extend(records)
    return student.with_module(module)


def _drawn() -> EpochProgress:
    """A `progress` that draws where a notebook's cell has asked."""
    progress = default_progress()
    return lambda done, total, record: progress("distill", format_record(record), done, total)


def _asked(
    teachers: Sequence[tuple[Teacher, float]],
    samples: Samples | Mixed,
    data: Data,
    config: Distill,
    terms: Sequence[Term],
    *,
    task: Task,
    seed: int,
    cache: Path | None,
    log: Callable[[str], None],
) -> Teachers:
    """The teachers, ready to say what the terms need; none where no term needs any."""
    wanted = list(dict.fromkeys(tap for term in terms for tap in _teacher_taps(term)))
    asked = Teachers(
        teachers if wanted else [],
        samples,
        data,
        config,
        seed=seed,
        taps=wanted,
        cache=cache,
        classes_axis=task.classes_axis,
        progress=lambda what, done, all_: log(f"the teacher's outputs, {what}: {done} of {all_}"),
    )
    if asked.inner and config.teacher_outputs == "cached":
        log(f"the teacher is asked at every step: losses need its {', '.join(asked.inner)}")
    return asked


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
        RecipeError: a layer does not exist, a loss does not take what it is to compare, the
            teacher takes other inputs, or a label is no class; all faults are told.
    """
    teachers = _listed(teacher)
    for each, _ in teachers:
        if isinstance(each, OutputsTable):
            check_table(each, data)
    samples = Samples(data.train, tuple(student.signature.input_names))
    ids = torch.arange(min(TRIED_ON, len(samples)))
    inputs, labels = samples.take(ids)
    terms = plan_terms(config.losses, task)
    output = student.signature.output_names[0]
    check_labels(samples, student, task, "train")

    def of_student(taps: Sequence[str], at: str) -> dict[str, Tensor]:
        found = _observed(student.module, inputs, [tap or output for tap in taps], at)
        return {tap: found[tap or output] for tap in taps}

    def of_teacher(taps: Sequence[str], at: str) -> dict[str, Tensor]:
        if taps == [""]:
            shown = [_first_output(each, inputs, ids) for each, _ in teachers]
            _same_shapes(shown)
            return {"": shown[0]}
        first = teachers[0][0]
        if not isinstance(first, Network):
            raise RecipeError(outputs_only(str(teacher_key(first)), taps[0], at))
        return _observed(first.module, renamed(inputs, first), taps, at)

    assert labels is not None
    return tried(terms, of_student, of_teacher, labels, seed=seed)


def _listed(
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
        found = observe(module, moved, taps, at=at)
    return {tap: value.cpu() for tap, value in found.items()}


def _first_output(teacher: Teacher, inputs: Inputs, ids: Tensor) -> Tensor:
    if isinstance(teacher, Network):
        with frozen(teacher.module):
            return outputs_on(teacher, inputs)
    if isinstance(teacher, OutputsTable):
        return teacher.rows("train")[ids]
    return outputs_on(teacher, inputs)


def _same_shapes(outputs: Sequence[Tensor]) -> None:
    if len({tuple(each.shape) for each in outputs}) > 1:
        raise RecipeError(
            Fault(
                what="The teachers' outputs do not fit each other.",
                at="distill.more_teachers",
                got=", ".join(str(tuple(each.shape)) for each in outputs),
                expected="outputs of one shape",
                fix="name teachers of the same classes",
            )
        )
