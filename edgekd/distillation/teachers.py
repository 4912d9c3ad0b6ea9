"""The teachers of a student: run at every step, or once for each view of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
from edgekd.training.options import TrainingOptions

Teacher = Network | BlackBox | OutputsTable


FILE_BATCH = 4096
"""Samples per call of a file: each call starts its runtime."""


def teacher_key(teacher: Teacher) -> dict[str, Any]:
    """The identity of a teacher, as part of the key of what is trained with it."""
    return network_key(teacher) if isinstance(teacher, Network) else dict(teacher.key)


class Teachers:
    """The tensors of the teachers on a batch: the combined output as "", and layers of the first.

    The outputs of a torch teacher are cached if the recipe says so and no loss needs a layer;
    those of files are always cached, and those of a table are read.

    Args:
        teachers: each with its weight.
        samples: all samples of the student, under its input names.
        taps: the outputs and layers of the first teacher that losses need; "" is its output.
        classes_axis: the axis of their outputs with one value per class; None if the outputs are
            real numbers, which are averaged.
        options: the folder of cached outputs, and where progress is logged.
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
        classes_axis: int | None = -1,
        options: TrainingOptions | None = None,
    ) -> None:
        options = options or TrainingOptions()
        self.networks = [teacher for teacher, _ in teachers if isinstance(teacher, Network)]
        self.weights = [weight for _, weight in teachers]
        self.samples, self.augment, self.seed = samples, data.augment, seed
        self.combine, self.classes_axis = config.combine, classes_axis
        self.inner = [tap for tap in taps if tap]
        cached = config.teacher_outputs == "cached" and not self.inner and bool(teachers)
        self.views: int | None = None
        if cached or any(not isinstance(teacher, Network) for teacher, _ in teachers):
            self.views = config.views if data.augment is not None else 1
        self.sources: list[Callable[[Batch], Tensor]] = []
        self.first: dict[str, Tensor] = {}
        for number, (teacher, _) in enumerate(teachers):
            if isinstance(teacher, OutputsTable):
                self.sources.append(self._read(teacher))
            elif isinstance(teacher, Network) and not cached:
                self.sources.append(self._live(teacher, inner=self.inner if number == 0 else []))
            else:
                self.sources.append(self._cached(teacher, config, options))

    def view_of(self, epoch: int) -> int:
        """The number that seeds the views of an epoch; it repeats if outputs are cached."""
        return epoch if self.views is None else epoch % self.views

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """The tensors of a batch by tap, on its device and without gradients."""
        if not self.sources:
            return {}
        self.first = {}
        device = next(iter(batch.inputs.values())).device
        outputs = [source(batch).to(device, non_blocking=True) for source in self.sources]
        output = combined(
            outputs, self.weights, self.combine, batch.labels, classes_axis=self.classes_axis
        )
        return {**self.first, "": output}

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Keeps torch teachers in eval mode and without gradients."""
        with ExitStack() as stack:
            for network in self.networks:
                stack.enter_context(frozen(network.module))
            yield

    def _live(self, teacher: Network, inner: Sequence[str]) -> Callable[[Batch], Tensor]:
        first = teacher.signature.output_names[0]

        def run(batch: Batch) -> Tensor:
            module = teacher.module.to(next(iter(batch.inputs.values())).device)
            with torch.inference_mode():
                tensors = observe(module, renamed(batch.inputs, teacher), [first, *inner])
            # Cloned outside inference mode, so that autograd can save it for the backward pass.
            self.first.update({tap: tensors[tap].clone() for tap in inner})
            return tensors[first].clone()

        return run

    def _cached(
        self, teacher: Network | BlackBox, config: Distill, options: TrainingOptions
    ) -> Callable[[Batch], Tensor]:
        document = [teacher_key(teacher), config.cache_format, config.cache_top_k]
        cache = options.cache

        def progress(view: int, done: int, total: int) -> None:
            name = "all samples" if self.augment is None else f"view {view + 1} of {self.views}"
            options.log(f"the teacher's outputs, {name}: {done} of {total}")

        outputs = TeacherOutputs(
            len(self.samples),
            lambda view, ids: outputs_on(teacher, self.view_inputs(view, ids)),
            cache / digest(document)[:32] if cache is not None else None,
            format=config.cache_format,
            top_k=config.cache_top_k,
            progress=progress,
            report=options.log,
            # In memory, every process holds all outputs.
            share=world() if cache is not None else (0, 1),
            barrier=wait,
        )
        return lambda batch: outputs.rows(self.view_of(batch.epoch), batch.ids)

    def _read(self, table: OutputsTable) -> Callable[[Batch], Tensor]:
        rows = table.rows("train")
        if len(self.samples) > labelled_count(self.samples):
            rows = torch.cat([rows, table.rows("unlabeled")])
        return lambda batch: rows[batch.ids]

    def view_inputs(self, view: int, ids: Tensor) -> Inputs:
        """The inputs of the samples `ids` in a view."""
        return view_inputs(self.samples, self.augment, self.seed, view, ids)


def check_table(table: OutputsTable, data: Data) -> None:
    """Checks that a table of outputs can be the teacher on `data`.

    Raises:
        RecipeError: it does not fit the data, or the data has augmented views.
    """
    table.check(data)
    if data.augment is not None:
        raise RecipeError(
            Fault(
                what="A table of outputs has no outputs for augmented views.",
                at=table.at,
                got="a table, and data with `augment`",
                expected="a teacher that can run, or data without `augment`",
                fix="return edgekd.Data without augment, or name the teacher itself",
            )
        )


def view_inputs(
    samples: Samples | Mixed, augment: Augment | None, seed: int, view: int, ids: Tensor
) -> Inputs:
    """The inputs of the samples `ids` in a view."""
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
        outputs = call(module, renamed(moved, teacher))
    return outputs[teacher.signature.output_names[0]].float().cpu()


def combined(
    outputs: Sequence[Tensor],
    weights: Sequence[float],
    method: str,
    labels: Tensor | None,
    *,
    classes_axis: int | None = -1,
) -> Tensor:
    """The outputs of several teachers combined into one.

    Args:
        outputs: the logits of each teacher, batch x classes; "weighted" takes further axes too.
        method: "weighted" is the log of the weighted mean of their probabilities (Hinton et al.
            2015, arXiv:1503.02531, section 5.3, with the arithmetic mean). "best" takes, for each
            sample, the logits of the teacher with the lowest cross-entropy, or with the lowest
            entropy if the sample has no label.
        labels: of the first samples; None if no sample has one.
        classes_axis: the axis of the logits with one value per class; None if the outputs are real
            numbers, of which "weighted" takes the mean.
    """
    if len(outputs) == 1:
        return outputs[0]
    first = outputs[0]
    shares = torch.tensor(weights, device=first.device, dtype=first.dtype)
    shares = (shares / shares.sum()).view(-1, *[1] * first.ndim)
    if classes_axis is None:
        return (torch.stack(list(outputs)) * shares).sum(0)
    logs = torch.stack([F.log_softmax(logits, dim=classes_axis) for logits in outputs])
    if method == "weighted":
        return torch.logsumexp(logs + shares.log(), dim=0)
    cost = -(logs.exp() * logs).sum(dim=2)
    if labels is not None:
        known = logs[:, : len(labels)]
        of_label = known.gather(2, labels.view(1, -1, 1).expand(len(outputs), -1, 1))
        cost = torch.cat([-of_label.squeeze(2), cost[:, len(labels) :]], dim=1)
    best = cost.argmin(dim=0)
    return torch.stack(list(outputs))[best, torch.arange(len(best), device=best.device)]


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Keeps a module in eval mode and its parameters without gradients.

    Afterwards modes, gradients and the device are restored.
    """
    device = next((parameter.device for parameter in module.parameters()), None)
    modes = {part: part.training for part in module.modules()}
    trainable = {parameter: parameter.requires_grad for parameter in module.parameters()}
    module.eval().requires_grad_(False)
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        for parameter, requires_grad in trainable.items():
            parameter.requires_grad_(requires_grad)
        module.to(device)
