"""The weighted terms of a distillation loss, tried before any work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from edgekd.errors import EdgekdError, Fault, RecipeError
from edgekd.losses import find_loss, input_names, relates_samples
from edgekd.network.activations import projector
from edgekd.recipe.training import Loss
from edgekd.system.import_string import is_reference, resolve
from edgekd.tasks import IGNORED, Task
from edgekd.training.distributed import gathered, world
from edgekd.training.loop import Batch

OUTPUTS = ("student_logits", "teacher_logits", "student_outputs", "teacher_outputs")
"""The inputs of a loss that need no layer: they are the first output of a network."""

Observe = Callable[[Sequence[str], str], dict[str, Tensor]]
"""Returns tensors of a network on some samples by tap, given taps (outputs or layers, "" is the
first output) and the recipe's key that names them."""


@dataclass(frozen=True)
class Term:
    """One weighted loss.

    Attributes:
        name: the name of the method, numbered if it is used again.
        at: the loss's key in the recipe.
        task: the task, which has the hard loss and marks ignored tokens or pixels.
        inputs: the names of the tensors that `function` compares, in order.
        taps: the output or layer of each of them except labels; "" is the first output.
        projectors: the modules that project the student's tensors, by the same names.
    """

    name: str
    at: str
    loss: Loss
    function: Callable[..., Tensor]
    task: Task
    inputs: tuple[str, ...]
    taps: Mapping[str, str]
    projectors: Mapping[str, nn.Module] = field(default_factory=dict)

    @property
    def needs_labels(self) -> bool:
        """Whether only labelled samples are used."""
        return "labels" in self.inputs

    @property
    def relates_samples(self) -> bool:
        """Whether the loss of a batch differs from the mean loss of its samples."""
        if self.loss.method == "hard":
            return self.task.relates_samples
        return relates_samples(self.function)

    def of_student(self, name: str) -> bool:
        """Whether the tensor `name` comes from the student."""
        return name.startswith("student") or self.loss.source == "student"

    def key(self, name: str) -> str:
        """The name of the student's tensor `name` among the outputs of `Observed`."""
        return f"{self.name}/{name}"

    def value(
        self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], batch: Batch
    ) -> Tensor:
        """The weighted loss of a batch; the weight grows over the epochs of the warm-up."""
        labels = batch.labels
        count = batch.whole_labelled if self.needs_labels else batch.whole
        own = len(batch.ids) if not self.needs_labels else 0 if labels is None else len(labels)
        tensors: list[Tensor] = []
        for name in self.inputs:
            if name == "labels":
                given = torch.zeros(0, dtype=torch.int64) if labels is None else labels
            elif self.of_student(name):
                given = student[self.key(name)]
            else:
                given = teacher[self.taps[name]]
            # The samples with labels come first.
            tensors.append(given if len(given) == own else given[:own])
        processes = world()[1]
        if self.relates_samples and processes > 1:
            tensors = [gathered(tensor, count) for tensor in tensors]
        if not len(tensors[0]):
            # Without samples the loss is zero, but has a gradient, as in the other processes.
            loss = torch.stack([tensor.sum() for tensor in tensors if tensor.is_floating_point()])
            return loss.sum() * 0.0
        loss = self.weight(batch.epoch) * self.compared(tensors, labels)
        if processes > 1 and self.relates_samples:
            # The value is that of all rows, the gradient that of this process's, to be averaged.
            return loss + (processes - 1) * (loss - loss.detach())
        return loss * (own * processes / count) if processes > 1 else loss

    def compared(self, tensors: Sequence[Tensor], labels: Tensor | None) -> Tensor:
        """The loss of tensors in the order of `inputs`.

        For the logits of a dense task it is the mean over tokens or pixels, without ignored ones.

        Args:
            labels: of the first samples; they mark the ignored tokens or pixels.
        """
        logits = [name for name in self.inputs if name.endswith("_logits")]
        if self.task.dense and logits and self.loss.method != "hard":
            tensors = self._rows(tensors, labels)
            if not len(tensors[0]):
                return tensors[0].sum() * 0.0
        return self.function(*tensors, **self.loss.options)

    def _rows(self, tensors: Sequence[Tensor], labels: Tensor | None) -> list[Tensor]:
        rows = [
            self.task.rows(tensor) if name.endswith("_logits") else tensor.reshape(-1)
            for name, tensor in zip(self.inputs, tensors, strict=True)
        ]
        known = 0 if labels is None else labels.numel()
        # Rows gathered from several processes have no labels here: none is ignored.
        if labels is None or (self.relates_samples and world()[1] > 1) or known > len(rows[0]):
            return rows
        keep = torch.ones(len(rows[0]), dtype=torch.bool, device=rows[0].device)
        keep[:known] = labels.reshape(-1) != IGNORED
        return [each[keep] for each in rows]

    def weight(self, epoch: int) -> float:
        """The weight in an epoch, from 0."""
        warm_up = self.loss.warmup_epochs
        return self.loss.weight * (min(1.0, (epoch + 1) / warm_up) if warm_up else 1.0)


def plan_terms(losses: Sequence[Loss], task: Task) -> list[Term]:
    """The terms of `losses`, with the names of the layers they compare, which are not resolved yet.

    Raises:
        RecipeError: a loss is unknown or lacks the layers it compares; all faults are reported.
    """
    terms: list[Term] = []
    faults: list[Fault] = []
    for number, loss in enumerate(losses):
        at = f"distill.losses[{number}]"
        try:
            function = _function(loss, task, f"{at}.method")
            inputs = tuple(input_names(function))
            taps = _taps(loss, inputs, at)
            name = loss.method.rpartition(":")[2]
            again = sum(term.loss.method.rpartition(":")[2] == name for term in terms)
            name = f"{name}_{again + 1}" if again else name
            terms.append(Term(name, at, loss, function, task, inputs, taps))
        except RecipeError as error:
            faults.extend(error.faults)
    if faults:
        raise RecipeError(*faults)
    return terms


def _function(loss: Loss, task: Task, at: str) -> Callable[..., Tensor]:
    if loss.method == "hard":
        return task.loss
    if is_reference(loss.method):
        return resolve(loss.method, base=loss.folder, at=at)
    return find_loss(loss.method, at=at)


def _taps(loss: Loss, inputs: Sequence[str], at: str) -> dict[str, str]:
    taps: dict[str, str] = {}
    for role, given in (("student", loss.student_layer), ("teacher", loss.teacher_layer)):
        names = [name for name in inputs if name.startswith(role)]
        layers = [given] if isinstance(given, str) else given
        if layers is None and all(name in OUTPUTS for name in names):
            layers = [""] * len(names)
        if layers is None or len(layers) != len(names):
            raise RecipeError(
                Fault(
                    what=f"{loss.method} needs the layers of the {role} to compare.",
                    at=f"{at}.{role}_layer",
                    got="nothing" if layers is None else f"{len(layers)} layers",
                    expected=f"an output or module path for {', '.join(names) or 'nothing'}",
                    fix=f'write {role}_layer = "PATH"' + (", a list" if len(names) > 1 else ""),
                )
            )
        taps.update(zip(names, layers, strict=True))
    return taps


def tried(
    terms: Sequence[Term], student: Observe, teacher: Observe, labels: Tensor, *, seed: int
) -> list[Term]:
    """The terms with the projectors they need, each tried on some samples.

    Args:
        labels: of the samples that `student` and `teacher` observe.
        seed: of the projectors' weights.

    Raises:
        RecipeError: a tap does not exist, or a loss does not accept its tensors; all faults are
            reported.
    """
    ready: list[Term] = []
    faults: list[Fault] = []
    for number, term in enumerate(terms):
        try:
            seen = {"labels": labels}
            for name, tap in term.taps.items():
                role = name.partition("_")[0]
                observe = student if term.of_student(name) else teacher
                tensor = observe([tap], f"{term.at}.{role}_layer")[tap].detach()
                seen[name] = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed((seed + number) % 2**63)
                ready.append(_projected(term, seen))
        except EdgekdError as error:
            faults.extend(error.faults)
    if faults:
        raise RecipeError(*faults)
    return ready


def _projected(term: Term, seen: Mapping[str, Tensor]) -> Term:
    """The term with its projectors; with none if the loss accepts the tensors as they are."""
    kind = term.loss.projector
    if kind == "auto":
        kind = "generative" if term.loss.method == "masked_generative" else "none"
        refused = _refusal(term, seen) if kind == "none" else None
        if refused is None and kind == "none":
            return term
        if kind == "none" and not any(name in OUTPUTS for name in term.inputs):
            kind = "linear"
    if kind == "none":
        refused = _refusal(term, seen)
        if refused is not None:
            raise RecipeError(_does_not_fit(term, seen, refused)) from refused
        return term
    projectors: dict[str, nn.Module] = {}
    projected = dict(seen)
    for name in term.inputs:
        if name.startswith("student"):
            theirs = seen["teacher" + name.removeprefix("student")]
            try:
                projectors[name] = projector(kind, seen[name], theirs).train()
                projected[name] = projectors[name](seen[name]).detach()
            except (ValueError, RuntimeError, KeyError) as error:
                raise RecipeError(_does_not_fit(term, seen, error)) from error
    refused = _refusal(term, projected)
    if refused is not None:
        raise RecipeError(_does_not_fit(term, projected, refused)) from refused
    return replace(term, projectors=projectors)


def _refusal(term: Term, seen: Mapping[str, Tensor]) -> Exception | None:
    """The error that `term` raises on these tensors, or None."""
    try:
        term.compared([seen[name] for name in term.inputs], seen.get("labels"))
    except (ValueError, TypeError, KeyError, RuntimeError, IndexError) as error:
        return error
    return None


def _does_not_fit(term: Term, seen: Mapping[str, Tensor], error: Exception) -> Fault:
    shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in seen.items())
    if any(name.endswith("_logits") for name in term.inputs):
        student, teacher = (seen.get(f"{who}_logits") for who in ("student", "teacher"))
        if student is not None and teacher is not None and student.shape != teacher.shape:
            return Fault(
                what="The student's output does not fit the teacher's.",
                at=f"{term.at}, student.load",
                got=f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}",
                expected="the same shape, sample by sample",
                fix="give the student as many classes as the teacher",
            )
    return Fault(
        what=f"{term.loss.method} does not accept the tensors it compares.",
        at=term.at,
        got=shapes,
        expected=f"needs {error}" if isinstance(error, KeyError) else str(error),
        fix="name other layers or another projector, or change its options",
    )


def outputs_only(reference: str, tap: str, at: str) -> Fault:
    """The fault of a loss that needs a layer of a teacher that is a file."""
    return Fault(
        what="Only the output of a teacher that is a file is known.",
        at=at,
        got=f"{tap!r} of {reference}",
        expected="losses that compare outputs: soft_target, dist, decoupled, ...",
        fix="remove this loss, or name the teacher's torch module in teacher.load",
    )
