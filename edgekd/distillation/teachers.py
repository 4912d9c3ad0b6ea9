"""The teachers of a student: asked at every step, or once for every view of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekd.data import Augment, Data, Inputs, Mixed, Samples, labelled_count, view_seeds
from edgekd.distillation.black_box import BlackBox, OutputsTable
from edgekd.distillation.output_cache import TeacherOutputs
from edgekd.errors import Fault, RecipeError
from edgekd.network.activations import observe
from edgekd.network.network import Network, call, network_key, renamed
from edgekd.recipe.training import Distill
from edgekd.system.files import digest
from edgekd.training.distributed import wait, world
from edgekd.training.loop import Batch

Teacher = Network | BlackBox | OutputsTable


FILE_BATCH = 4096
"""Samples that a file is given at once: each time, its runtime is started."""


def teacher_key(teacher: Teacher) -> dict[str, Any]:
    """What a teacher is, as part of the key of what is made with it."""
    return network_key(teacher) if isinstance(teacher, Network) else dict(teacher.key)


class Teachers:
    """What the teachers say of a batch: their joint output as "", and inner layers of the first.

    A torch teacher's outputs are kept if the recipe says so and no loss asks for an inner layer;
    those of files are always kept, and a table is read.

    Args:
        teachers: each with its weight.
        samples: all that the student sees, under its names.
        taps: the outputs and layers of the first teacher that losses ask for; "" is its output.
        cache: a folder for outputs on these very data and views; without it, memory is used.
        classes_axis: of their outputs; None where these are numbers, whose mean is taken.
        tell: called with (a view, samples asked, samples) while a teacher is asked.
    """

    def __init__(
        self,
        teachers: Sequence[tuple[Teacher, float]],
        samples: Samples | Mixed,
        data: Data,
        config: Distill,
        *,
        seed: int,
        taps: Sequence[str],
        cache: Path | None = None,
        classes_axis: int | None = -1,
        progress: Callable[[str, int, int], None] = lambda what, done, total: None,  # noqa: ARG005
    ) -> None:
        self.networks = [teacher for teacher, _ in teachers if isinstance(teacher, Network)]
        self.weights = [weight for _, weight in teachers]
        self.samples, self.augment, self.seed = samples, data.augment, seed
        self.combine, self.classes_axis = config.combine, classes_axis
        self.inner = [tap for tap in taps if tap]
        kept = config.teacher_outputs == "cached" and not self.inner and bool(teachers)
        self.views: int | None = None
        if kept or any(not isinstance(teacher, Network) for teacher, _ in teachers):
            self.views = config.views if data.augment is not None else 1
        self.asked: list[Callable[[Batch], Tensor]] = []
        self.first: dict[str, Tensor] = {}
        for place, (teacher, _) in enumerate(teachers):
            if isinstance(teacher, OutputsTable):
                self.asked.append(self._read(teacher))
            elif isinstance(teacher, Network) and not kept:
                self.asked.append(self._live(teacher, inner=self.inner if place == 0 else []))
            else:
                self.asked.append(self._kept(teacher, config, cache, progress))

    def view_of(self, epoch: int) -> int:
        """The number that seeds an epoch's views; it repeats where outputs are kept."""
        return epoch if self.views is None else epoch % self.views

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """By tap, the tensors of a batch, on its device and without gradients."""
        if not self.asked:
            return {}
        self.first = {}
        device = next(iter(batch.inputs.values())).device
        outputs = [ask(batch).to(device, non_blocking=True) for ask in self.asked]
        joint = combined(
            outputs, self.weights, self.combine, batch.labels, classes_axis=self.classes_axis
        )
        return {**self.first, "": joint}

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """While open, torch teachers are in eval mode and ask for no gradient."""
        with ExitStack() as stack:
            for network in self.networks:
                stack.enter_context(frozen(network.module))
            yield

    def _live(self, teacher: Network, inner: Sequence[str]) -> Callable[[Batch], Tensor]:
        first = teacher.signature.output_names[0]

        def ask(batch: Batch) -> Tensor:
            module = teacher.module.to(next(iter(batch.inputs.values())).device)
            with torch.inference_mode():
                found = observe(module, renamed(batch.inputs, teacher), [first, *inner])
            # Outside, so that autograd may keep it for the backward pass.
            self.first.update({tap: found[tap].clone() for tap in inner})
            return found[first].clone()

        return ask

    def _kept(
        self,
        teacher: Network | BlackBox,
        config: Distill,
        cache: Path | None,
        progress: Callable[[str, int, int], None],
    ) -> Callable[[Batch], Tensor]:
        document = [teacher_key(teacher), config.cache_format, config.cache_top_k]
        outputs = TeacherOutputs(
            len(self.samples),
            lambda view, ids: outputs_on(teacher, self.seen(view, ids)),
            cache / digest(document)[:32] if cache is not None else None,
            format=config.cache_format,
            top_k=config.cache_top_k,
            progress=lambda view, done, total: progress(self._told(view), done, total),
            # In memory, every process keeps all of them.
            share=world() if cache is not None else (0, 1),
            barrier=wait,
        )
        return lambda batch: outputs.rows(self.view_of(batch.epoch), batch.ids)

    def _told(self, view: int) -> str:
        return f"view {view + 1} of {self.views}" if self.augment is not None else "all samples"

    def _read(self, table: OutputsTable) -> Callable[[Batch], Tensor]:
        rows = table.rows("train")
        if len(self.samples) > labelled_count(self.samples):
            rows = torch.cat([rows, table.rows("unlabeled")])
        return lambda batch: rows[batch.ids]

    def seen(self, view: int, ids: Tensor) -> Inputs:
        """The samples `ids` as the `view` shows them."""
        return view_inputs(self.samples, self.augment, self.seed, view, ids)


def check_table(table: OutputsTable, data: Data) -> None:
    """Finds out whether a table of outputs can teach on `data`.

    Raises:
        RecipeError: it does not fit the data, or cannot know their views.
    """
    table.check(data)
    if data.augment is not None:
        raise RecipeError(
            Fault(
                what="A table of outputs does not know the augmented views of its samples.",
                at=table.at,
                got="a table, and data with `augment`",
                expected="a teacher that can be asked, or data without `augment`",
                fix="return edgekd.Data without augment, or give the teacher itself",
            )
        )


def view_inputs(
    samples: Samples | Mixed, augment: Augment | None, seed: int, view: int, ids: Tensor
) -> Inputs:
    """The samples `ids` as the `view` shows them."""
    inputs, _ = samples.take(ids)
    return inputs if augment is None else augment(inputs, view_seeds(seed, view, ids))


def outputs_on(teacher: Network | BlackBox, inputs: Inputs) -> Tensor:
    """The first output of a teacher for `inputs`, on the CPU."""
    if isinstance(teacher, BlackBox):
        return teacher.outputs(inputs)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = teacher.module.to(device)
    with torch.no_grad():
        moved = {name: tensor.to(device) for name, tensor in inputs.items()}
        found = call(module, renamed(moved, teacher))
    return found[teacher.signature.output_names[0]].float().cpu()


def combined(
    outputs: Sequence[Tensor],
    weights: Sequence[float],
    how: str,
    labels: Tensor | None,
    *,
    classes_axis: int | None = -1,
) -> Tensor:
    """One output of several teachers.

    Args:
        outputs: logits of each, batch x classes; "weighted" takes further axes too.
        classes_axis: of the logits; None where the outputs are numbers: "weighted" is their mean.
        how: "weighted", the log of the weighted mean of their probabilities (Hinton et al. 2015,
            arXiv:1503.02531, section 5.3, by arithmetic mean); or "best", for each sample the
            logits of the teacher with the smallest cross-entropy, without a label the smallest
            entropy.
        labels: of the first samples; None where none has one.
    """
    if len(outputs) == 1:
        return outputs[0]
    first = outputs[0]
    shares = torch.tensor(weights, device=first.device, dtype=first.dtype)
    shares = (shares / shares.sum()).view(-1, *[1] * first.ndim)
    if classes_axis is None:
        return (torch.stack(list(outputs)) * shares).sum(0)
    logs = torch.stack([F.log_softmax(each, dim=classes_axis) for each in outputs])
    if how == "weighted":
        return torch.logsumexp(logs + shares.log(), dim=0)
    cost = -(logs.exp() * logs).sum(dim=2)
    if labels is not None:
        known = logs[:, : len(labels)]
        picked = known.gather(2, labels.view(1, -1, 1).expand(len(outputs), -1, 1))
        cost = torch.cat([-picked.squeeze(2), cost[:, len(labels) :]], dim=1)
    best = cost.argmin(dim=0)
    return torch.stack(list(outputs))[best, torch.arange(len(best), device=best.device)]


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
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
