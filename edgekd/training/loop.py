"""The training loop that every stage calls with a module and a loss.

The order and the views of samples are functions of (seed, epoch, sample), and dropout is a function
of (seed, epoch, step), so an interrupted training continues to the same weights (bit-exact on CPU).
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from edgekd.data import Inputs, Mixed, Samples, labelled_count
from edgekd.errors import EdgekdError, Fault, RecipeError, listed
from edgekd.network.network import call
from edgekd.recipe.training import Training
from edgekd.system.files import digest
from edgekd.training.checkpoint import load_checkpoint, save_checkpoint, unreadable
from edgekd.training.distributed import agreed, fabric_of, join, summed, too_few, world
from edgekd.training.options import Record, TrainingOptions, no_epoch_progress
from edgekd.training.schedule import (
    View,
    epoch_seed,
    in_batches,
    learning_rate_frac,
    optimizer_of,
    sample_order,
)

CHECKPOINT_EVERY_S = 300.0
"""The interval of checkpoints within a long epoch; there is one after each epoch too."""

CHECK_EVERY = 50
"""Steps between two checks of the loss on an accelerator: each check waits for the device."""


@dataclass(frozen=True)
class Batch:
    """The samples of one step, or this process's share of them.

    Attributes:
        epoch: from 0.
        ids: the indices of the samples in their dataset.
        inputs: the augmented inputs.
        labels: of the labelled samples, which come first; None if there are none.
        whole: the number of samples of the step in all processes.
        whole_labelled: the number of these that have a label.
    """

    epoch: int
    ids: Tensor
    inputs: Inputs
    labels: Tensor | None
    whole: int
    whole_labelled: int


LossOf = Callable[[dict[str, Tensor], Batch], dict[str, Tensor]]
"""The weighted terms of the loss, by name, given a module's named outputs on a batch. The loss of a
step is their sum, averaged over the processes."""


def format_record(record: Record) -> str:
    """The figures of an epoch in one line, without the terms of the loss."""
    hidden = [name for name in record if name == "epoch" or name.startswith("loss_")]
    return ", ".join(f"{name} {value:.4g}" for name, value in record.items() if name not in hidden)


def fit(
    module: nn.Module,
    loss_of: LossOf,
    samples: Samples | Mixed,
    training: Training,
    *,
    seed: int,
    view: View | None = None,
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    options: TrainingOptions | None = None,
) -> list[Record]:
    """The record of each epoch; `module` is trained in place and returned to eval mode.

    Args:
        loss_of: computes the weighted terms of the loss by name; each term is recorded.
        training: epochs, batch size (over all processes), optimizer and the rest.
        seed: of the order of samples, the views and dropout.
        view: the augmented inputs of samples in an epoch; None: the inputs themselves.
        validate: called with the module in eval mode after each epoch; returns figures to record.

    Raises:
        RecipeError: the loss is not finite, a step failed, or a checkpoint cannot be written or
            read. The step, the samples and the term are named.
    """
    options = options or TrainingOptions()
    checkpoint, after_step = options.checkpoint, options.after_step
    progress = options.progress or no_epoch_progress
    loop = _Loop(module, loss_of, samples, training, seed, options)
    records, first, totals = loop.restored(checkpoint)
    for epoch in range(len(records), training.epochs):
        module.train()
        batches = loop.batches(epoch)
        saved = time.monotonic()
        for step in range(first, len(batches)):
            loop.seed_step(epoch, step)
            ids = batches[step][(batches[step] >= loop.labelled).argsort(stable=True)]
            try:
                batch = loop.batch(ids, epoch, view)
                terms = loop.advance(batch)
                if after_step is not None:
                    after_step(module)
            except EdgekdError:
                raise
            except Exception as error:
                raise RecipeError(_failed(epoch, step, ids, error)) from error
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + value * len(ids)
            loop.check(epoch, step, ids, terms, now=step + 1 == len(batches))
            if checkpoint is not None and loop.is_due(step, saved):
                loop.save(checkpoint, records, step + 1, totals)
                saved = time.monotonic()
        module.eval()
        record = {
            "epoch": float(epoch + 1),
            **_means(loop.summed(totals), len(samples) * loop.processes),
            "learning_rate": float(loop.schedule.get_last_lr()[0]),
            **(validate(module) if validate and loop.leads else {}),
        }
        records.append(record)
        first, totals = 0, {}
        if checkpoint is not None:
            loop.save(checkpoint, records, first, totals)
        if loop.leads:
            progress(epoch + 1, training.epochs, record)
    loop.finish()
    if options.history is not None:
        options.history.extend(records)
    return records


class _Loop:
    """The state of a training: the module on its device, the optimizer and the processes."""

    def __init__(
        self,
        module: nn.Module,
        loss_of: LossOf,
        samples: Samples | Mixed,
        training: Training,
        seed: int,
        options: TrainingOptions,
    ) -> None:
        if options.together:
            join()
        self.number, self.processes = world() if options.together else (0, 1)
        self.module, self.loss_of, self.samples = module, loss_of, samples
        self.training, self.seed, self.log = training, seed, options.log
        self.labelled = labelled_count(samples)
        self.fabric = fabric_of(training, self.processes)
        self.memory_format = torch.contiguous_format
        if training.channels_last:
            self.memory_format = torch.channels_last
            _set_memory_format(module, self.memory_format)
        self.student, self.optimizer = self.fabric.setup(module, optimizer_of(module, training))
        if len(samples) < 2 * self.processes or training.batch_size < self.processes:
            raise RecipeError(too_few(len(samples), training.batch_size, self.processes))
        steps = len(in_batches(torch.arange(len(samples)), training.batch_size, 2 * self.processes))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: learning_rate_frac(step, steps * training.epochs, training.schedule),
        )
        self.identity = digest([training.model_dump(), seed, len(samples)])
        self.to_compile = training.compile
        self.epoch_seed = (-1, 0)
        self.unchecked: list[tuple[int, Tensor, Mapping[str, Tensor]]] = []

    @property
    def leads(self) -> bool:
        """Whether this process reports and writes the results of all."""
        return self.number == 0

    def batches(self, epoch: int) -> list[Tensor]:
        """The ids of the epoch's samples, step by step."""
        order = sample_order(self.samples, epoch_seed(self.seed, epoch))
        return in_batches(order, self.training.batch_size, 2 * self.processes)

    def seed_step(self, epoch: int, step: int) -> None:
        """Seeds the random numbers of the module in a step of this process."""
        if self.epoch_seed[0] != epoch:
            self.epoch_seed = (epoch, epoch_seed(self.seed, epoch))
        seed = (self.epoch_seed[1] + step * self.processes + self.number) % 2**63
        # torch.manual_seed visits every kind of device, which takes 0.4 ms.
        on_cpu = self.fabric.device.type == "cpu"
        (torch.default_generator.manual_seed if on_cpu else torch.manual_seed)(seed)

    def batch(self, ids: Tensor, epoch: int, view: View | None) -> Batch:
        """This process's share of the samples `ids`, labelled ones first, on its device."""
        own = ids[self.number :: self.processes]
        inputs, labels = self.samples.take(own)
        if view is not None:
            inputs = view(inputs, epoch, own)
        if self.training.channels_last:
            format = self.memory_format
            inputs = {
                name: value.contiguous(memory_format=format) if value.ndim == 4 else value
                for name, value in inputs.items()
            }
        inputs, labels = self.fabric.to_device((inputs, labels))
        return Batch(epoch, own, inputs, labels, len(ids), int((ids < self.labelled).sum()))

    def advance(self, batch: Batch) -> dict[str, Tensor]:
        """Updates the weights on `batch`; the loss and its terms before the update."""
        if self.to_compile:
            self._compile(batch)
        outputs = call(self.student, batch.inputs, names_of=self.module)
        terms = self.loss_of(outputs, batch)
        loss = total_of(terms)
        if self.processes > 1:
            # All gradients are averaged, even of an output that no term of this batch uses.
            unused = sum(output.sum() for output in outputs.values() if output.requires_grad)
            loss = loss + unused * 0.0
        if self.fabric.device.type == "cpu" and not torch.isfinite(loss):
            return _detached(loss, terms)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.fabric.clip_gradients(
            self.student,
            self.optimizer,
            max_norm=self.training.clip_norm,
            error_if_nonfinite=False,
        )
        self.optimizer.step()
        self.schedule.step()
        return _detached(loss, terms)

    def check(
        self, epoch: int, step: int, ids: Tensor, terms: Mapping[str, Tensor], *, now: bool
    ) -> None:
        """Raises if the loss is not finite; on an accelerator, up to `CHECK_EVERY` steps later."""
        self.unchecked.append((step, ids, terms))
        if not now and self.fabric.device.type != "cpu" and len(self.unchecked) < CHECK_EVERY:
            return
        losses = torch.stack([values["loss"] for _, _, values in self.unchecked])
        if not bool(torch.isfinite(losses).all()):
            step, ids, terms = self.unchecked[int((~torch.isfinite(losses)).int().argmax())]
            raise RecipeError(_not_finite(epoch, step, ids, terms))
        self.unchecked.clear()

    def _compile(self, batch: Batch) -> None:
        """Compiles the module if a trial step works; it changes neither weights nor buffers."""
        self.to_compile = False
        buffers = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        try:
            self.module.compile()
            terms = self.loss_of(call(self.student, batch.inputs, names_of=self.module), batch)
            self.fabric.backward(total_of(terms))
        except (RuntimeError, OSError, ImportError) as error:
            self.module._compiled_call_impl = None
            reason = (str(error).strip().splitlines() or [""])[0]
            self.log(f"not compiled, training continues without: {type(error).__name__}: {reason}")
        for name, buffer in self.module.named_buffers():
            buffer.copy_(buffers[name])
        self.optimizer.zero_grad(set_to_none=True)

    def is_due(self, step: int, saved: float) -> bool:
        """Whether all processes save a checkpoint now, given the time of the last one."""
        if (step + 1) % CHECK_EVERY:
            return False
        late = time.monotonic() - saved > CHECKPOINT_EVERY_S
        return agreed(late) if self.processes > 1 else late

    def summed(self, totals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The totals over all processes."""
        return {
            name: summed(value) if self.processes > 1 else value for name, value in totals.items()
        }

    def save(
        self, path: Path, records: list[Record], step: int, totals: Mapping[str, Tensor]
    ) -> None:
        """Saves the state before `step` of the epoch after `records`."""
        totals = self.summed(totals)
        if not self.leads:
            return
        schedule = {"last_epoch": self.schedule.last_epoch, "_last_lr": self.schedule.get_last_lr()}
        state = {
            "of": self.identity,
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": schedule,
            "precision": self.fabric.strategy.precision.state_dict(),
            "records": records,
            "step": step,
            "totals": totals,
        }
        save_checkpoint(path, state)

    def restored(self, path: Path | None) -> tuple[list[Record], int, dict[str, Tensor]]:
        """The records, the next step and the totals of its epoch, as saved in `path`."""
        state = load_checkpoint(path) if path is not None else None
        if path is None or state is None:
            return [], 0, {}
        try:
            if state["of"] != self.identity:
                raise ValueError(
                    "it belongs to a training with another configuration, seed or length"
                )
            self.module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.fabric.strategy.precision.load_state_dict(state["precision"])
            self.schedule.last_epoch = state["schedule"]["last_epoch"]
            self.schedule._last_lr = state["schedule"]["_last_lr"]
            totals = {
                name: self.fabric.to_device(value) * float(self.leads)
                for name, value in state["totals"].items()
            }
            return state["records"], state["step"], totals
        except Exception as error:
            raise unreadable(path, error) from error

    def finish(self) -> None:
        """Returns the module to the CPU, to eval mode and to its memory format."""
        self.module._compiled_call_impl = None
        self.module.eval().cpu()
        if self.training.channels_last:
            _set_memory_format(self.module, torch.contiguous_format)


def _set_memory_format(module: nn.Module, memory_format: torch.memory_format) -> None:
    module.to(device=None, dtype=None, memory_format=memory_format)  # type: ignore[call-overload]


def total_of(terms: Mapping[str, Tensor]) -> Tensor:
    """The sum of the terms."""
    return functools.reduce(torch.add, terms.values())


def _detached(loss: Tensor, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in {"loss": loss, **terms}.items()}


def _means(totals: Mapping[str, Tensor], count: int) -> Record:
    """The mean loss, and the mean of each weighted term if there are several."""
    means = {name: float(total) / count for name, total in totals.items()}
    parts = {f"loss_{name}": mean for name, mean in means.items() if name != "loss"}
    return {"loss": means["loss"], **(parts if len(parts) > 1 else {})}


def _location(epoch: int, step: int, ids: Tensor) -> str:
    more = f" and {len(ids) - 8} more" if len(ids) > 8 else ""
    return f"epoch {epoch + 1}, step {step + 1}, samples {ids[:8].tolist()}{more}"


def _failed(epoch: int, step: int, ids: Tensor, error: Exception) -> Fault:
    return Fault(
        what="A training step failed in the network, the data or a loss.",
        at=_location(epoch, step, ids),
        got=f"{type(error).__name__}: {error}",
        expected="batches that the network takes, and labels that fit the task",
        fix="correct the data, the network or the loss; the traceback is in the run's log",
    )


def _not_finite(epoch: int, step: int, ids: Tensor, terms: Mapping[str, Tensor]) -> Fault:
    values = {name: float(value) for name, value in terms.items() if name != "loss"}
    bad = [name for name, value in values.items() if not math.isfinite(value)] or list(values)
    return Fault(
        what="The training loss is not finite.",
        at=f"{_location(epoch, step, ids)}; term {listed(bad)}",
        got=", ".join(f"{name} {value:.4g}" for name, value in values.items()),
        expected="a finite loss",
        fix="lower optimizer.learning_rate, or check these samples for NaN",
    )
