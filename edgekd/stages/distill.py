"""Teach the student what the teacher knows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.data import Data, Inputs, Mixed, Samples, view_seeds
from edgekd.errors import Fault, RecipeError
from edgekd.evaluate import outputs_of, score
from edgekd.fit import Batch, Record, fit, ignore, told
from edgekd.losses import find_loss, input_names
from edgekd.network import Network, call
from edgekd.store import Run
from edgekd.task import TASKS, Task
from edgekd.trained import network_key, scored, trained_once
from edgekd.training import Distill, Loss
from edgekd.work import Work


def distill(
    teacher: Network,
    student: Network,
    data: Data,
    config: Distill,
    *,
    task: Task = TASKS["classification"],
    metric: str = "accuracy",
    seed: int = 0,
    tell: Callable[[int, int, Record], None] = ignore,
    checkpoint: Path | None = None,
    history: list[Record] | None = None,
) -> Network:
    """A copy of `student` taught by `teacher`, as the last epoch left it.

    The teacher is asked in eval mode, without gradients, and is not changed by a bit. Teacher and
    student see the very same view of a sample.

    Args:
        metric: of the task; recorded on the validation split after each epoch.
        history: what each epoch came to is added to it.

    Raises:
        RecipeError: the outputs do not fit each other, or a loss is not finite.
    """
    module = copy.deepcopy(student.module)
    names = tuple(student.signature.input_names)
    labelled = Samples(data.train, names)
    samples: Samples | Mixed = labelled
    if data.unlabeled is not None:
        samples = Mixed(labelled, Samples(data.unlabeled, names, labelled=False))
    validation = Samples(data.validation, names)
    output = student.signature.output_names[0]
    _same_classes(teacher, student)
    views = config.views if config.teacher_outputs == "cached" else None
    asked = _Teacher(teacher, samples, data, seed, views)
    terms = _terms(config.losses, task)

    def loss_of(outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        given = {
            "student_logits": outputs[output],
            "teacher_logits": asked.outputs(batch),
            "labels": batch.labels,
        }
        return {name: term.value(given, batch.epoch) for name, term in terms.items()}

    # Freezing is ours to do and to undo: a teacher's owner may train it further.
    with _frozen(teacher.module):
        records = fit(
            module,
            loss_of,
            samples,
            config,
            seed=seed,
            augment=data.augment,
            view_of=asked.view_of,
            validate=lambda module: {metric: score(module, output, validation, task, metric)},
            tell=tell,
            checkpoint=checkpoint,
        )
    if history is not None:
        history.extend(records)
    return student.with_module(module)


@dataclass(frozen=True)
class _Term:
    """One weighted loss; `inputs` are the names of the tensors it compares."""

    function: Callable[..., Tensor]
    inputs: tuple[str, ...]
    loss: Loss

    def value(self, given: Mapping[str, Any], epoch: int) -> Tensor:
        warm_up = self.loss.warmup_epochs
        weight = self.loss.weight * (min(1.0, (epoch + 1) / warm_up) if warm_up else 1.0)
        tensors = [given[name] for name in self.inputs]
        if "labels" in self.inputs:  # The samples with labels come first.
            labels = given["labels"]
            if labels is None:
                return torch.zeros((), device=next(iter(given.values())).device)
            tensors = [tensor[: len(labels)] for tensor in tensors]
        return weight * self.function(*tensors, **self.loss.options)


def _terms(losses: Sequence[Loss], task: Task) -> dict[str, _Term]:
    """The terms by the names of their methods, numbered where one is used again."""
    terms: dict[str, _Term] = {}
    for loss in losses:
        function = task.hard_loss if loss.method == "hard" else find_loss(loss.method)
        again = sum(term.loss.method == loss.method for term in terms.values())
        name = f"{loss.method}_{again + 1}" if again else loss.method
        terms[name] = _Term(function, tuple(input_names(function)), loss)
    return terms


class _Teacher:
    """The teacher's logits for a batch: asked live, or kept for each of so many views.

    A view is filled whole, in the order of the data, the first time it is needed, so that what is
    kept does not depend on where a training was interrupted.
    """

    def __init__(
        self, teacher: Network, samples: Samples | Mixed, data: Data, seed: int, views: int | None
    ) -> None:
        self.teacher, self.samples, self.data, self.seed = teacher, samples, data, seed
        self.views = None if views is None else (views if data.augment else 1)
        self.kept: dict[int, Tensor] = {}
        self.output = teacher.signature.output_names[0]

    def view_of(self, epoch: int) -> int:
        return epoch if self.views is None else epoch % self.views

    def outputs(self, batch: Batch) -> Tensor:
        device = next(iter(batch.inputs.values())).device
        if self.views is None:
            module = self.teacher.module.to(device)
            with torch.inference_mode():
                live = call(module, _renamed(batch.inputs, self.teacher))[self.output]
            return live.clone()  # Outside, so that autograd may keep it for the backward pass.
        view = self.view_of(batch.epoch)
        if view not in self.kept:
            found = outputs_of(self.teacher.module, self.samples, view=self._seen(view))
            self.kept[view] = found[self.output]
        return self.kept[view][batch.ids].to(device)

    def _seen(self, view: int) -> Callable[[Inputs, Tensor], Inputs]:
        def seen(inputs: Inputs, ids: Tensor) -> Inputs:
            if self.data.augment is not None:
                inputs = self.data.augment(inputs, view_seeds(self.seed, view, ids))
            return _renamed(inputs, self.teacher)

        return seen


def _renamed(inputs: Inputs, network: Network) -> Inputs:
    """The inputs under the names that `network` has for them, in order."""
    return dict(zip(network.signature.input_names, inputs.values(), strict=True))


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """While open, the module is in eval mode and no parameter asks for a gradient.

    After, it is as it was and where it was: it may have been moved to be asked.
    """
    device = next((entry.device for entry in module.parameters()), None)
    modes = {part: part.training for part in module.modules()}
    asked = {entry: entry.requires_grad for entry in module.parameters()}
    module.eval().requires_grad_(False)
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        for entry, wanted in asked.items():
            entry.requires_grad_(wanted)
        module.to(device)


def _same_classes(teacher: Network, student: Network) -> None:
    ours, theirs = student.signature.outputs[0].shape, teacher.signature.outputs[0].shape
    if ours[1:] != theirs[1:]:
        raise RecipeError(
            Fault(
                what="The student's output does not fit the teacher's.",
                at="student.load",
                got=f"student {ours}, teacher {theirs}",
                expected="the same shape, sample by sample",
                fix="give the student as many classes as the teacher",
            )
        )


def step(work: Work, run: Run) -> Work:
    """The work with its student taught, where the recipe asks for it, and scored."""
    student, config = work.student, work.recipe.distill
    if work.teacher is not None and config is not None:
        teacher = work.teacher
        key = {
            "teacher": network_key(teacher),
            "student": network_key(student),
            "distill": config.model_dump(),
            "data": work.data_key,
            "seed": run.seed,
        }

        def work_on(folder: Path) -> tuple[Network, list[Record]]:
            history: list[Record] = []
            taught = distill(
                teacher,
                work.student,
                work.data,
                config,
                task=work.task,
                metric=work.recipe.accept.metric,
                seed=run.seed,
                tell=lambda done, total, record: run.tell("distill", told(record), done, total),
                checkpoint=folder / "checkpoint.pt",
                history=history,
            )
            return taught, history

        student = trained_once(run, "distill", key, student, work_on)
    return replace(
        work, student=student, student_score=scored(student, replace(work, student=student))
    )
