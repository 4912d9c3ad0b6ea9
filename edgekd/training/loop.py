"""The one training loop: every stage that trains calls it with a module and a loss.

The order of samples and the views of them are functions of (seed, epoch, sample), and what dropout
draws is one of (seed, epoch, step), so a training that was interrupted continues to the very same
weights (bit for bit on a CPU).
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from edgekd.data import Augment, Inputs, Mixed, Samples, labelled_count, view_seeds
from edgekd.errors import EdgekdError, Fault, RecipeError, listed
from edgekd.network.network import call
from edgekd.recipe.training import Training
from edgekd.system.files import digest
from edgekd.training.checkpoint import load_checkpoint, save_checkpoint, unreadable
from edgekd.training.distributed import agreed, fabric_of, join, summed, too_few, world
from edgekd.training.schedule import (
    epoch_seed,
    in_batches,
    learning_rate_frac,
    optimizer_of,
    sample_order,
)

CHECKPOINT_EVERY_S = 300.0
"""A checkpoint is kept after each epoch, and within a long one this often."""

LOOK_EVERY = 50
"""Steps between two looks at the loss of an accelerator: each look waits for the device."""


@dataclass(frozen=True)
class Batch:
    """One step's samples, or this process's part of them.

    Attributes:
        epoch: from 0.
        ids: of the samples in their dataset.
        inputs: as the student sees them, augmented.
        labels: of the samples that have one, which come first; None where none has.
        whole: how many samples the step has in all processes.
        whole_labelled: how many of these have a label.
    """

    epoch: int
    ids: Tensor
    inputs: Inputs
    labels: Tensor | None
    whole: int
    whole_labelled: int


LossOf = Callable[[dict[str, Tensor], Batch], dict[str, Tensor]]
"""The weighted terms of the loss, whose sum it is, of a module's named outputs on a batch. Of
several processes, the mean over them is the step's loss."""

Record = dict[str, float]


class EpochProgress(Protocol):
    """A callback that receives the figures of each finished epoch."""

    def __call__(self, done: int, total: int, record: Record) -> None:
        """Reports that `done` of `total` epochs are finished, and the figures of the last one."""


def no_epoch_progress(done: int, total: int, record: Record) -> None:
    """An `EpochProgress` that does nothing."""


def no_message(sentence: str) -> None:
    """A `log` that drops what it is told."""


def format_record(record: Record) -> str:
    """An epoch's figures in a few words."""
    shown = {name: value for name, value in record.items() if name != "epoch"}
    parts = [name for name in shown if name.startswith("loss_")]  # In the history, not in a line.
    return ", ".join(f"{name} {value:.4g}" for name, value in shown.items() if name not in parts)


def fit(
    module: nn.Module,
    loss_of: LossOf,
    samples: Samples | Mixed,
    training: Training,
    *,
    seed: int,
    augment: Augment | None = None,
    view_of: Callable[[int], int] = lambda epoch: epoch,
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    progress: EpochProgress = no_epoch_progress,
    log: Callable[[str], None] = no_message,
    checkpoint: Path | None = None,
    together: bool = False,
    after_step: Callable[[nn.Module], None] | None = None,
) -> list[Record]:
    """What each epoch came to; `module` is trained in place and is the last epoch's, in eval mode.

    Args:
        training: epochs, batch size (over all processes), optimizer and the rest.
        seed: of the order, the views and dropout.
        loss_of: the weighted terms of the loss by name; each is recorded.
        view_of: the number that seeds an epoch's views; it repeats where views are cached.
        validate: figures of the module, in eval mode, on the validation split after each epoch.
        tell: called after each epoch with (epochs done, epochs, record).
        say: told, in a sentence, what was asked for and cannot be had.
        checkpoint: where the state is kept after each epoch, and read from if it is there.
        together: whether all processes that a launcher started train this module.
        after_step: called with the module after each step of the optimizer.

    Raises:
        RecipeError: the loss is not finite; the step, the samples and the term are named. Or a
            checkpoint cannot be written or read.
    """
    loop = _Loop(module, loss_of, samples, training, seed, together, log)
    records, first, totals = loop.restored(checkpoint)
    for epoch in range(len(records), training.epochs):
        module.train()
        batches = loop.batches(epoch)
        saved = time.monotonic()
        for step in range(first, len(batches)):
            loop.seed_step(epoch, step)
            ids = batches[step][(batches[step] >= loop.labelled).argsort(stable=True)]
            try:
                batch = loop.drawn(ids, epoch, augment, view_of(epoch))
                terms = loop.advance(batch)
                if after_step is not None:
                    after_step(module)
            except EdgekdError:
                raise
            except Exception as error:
                raise RecipeError(_failed(epoch, step, ids, error)) from error
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + value * len(ids)
            loop.look(epoch, step, ids, terms, now=step + 1 == len(batches))
            if checkpoint is not None and loop.due(step, saved):
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
    return records


class _Loop:
    """What a training holds: the module on its device, the optimizer, and who else takes part."""

    def __init__(
        self,
        module: nn.Module,
        loss_of: LossOf,
        samples: Samples | Mixed,
        training: Training,
        seed: int,
        together: bool,
        log: Callable[[str], None],
    ) -> None:
        if together:
            join()
        self.number, self.processes = world() if together else (0, 1)
        self.module, self.loss_of, self.samples = module, loss_of, samples
        self.training, self.seed, self.log = training, seed, log
        self.labelled = labelled_count(samples)
        self.fabric = fabric_of(training, self.processes)
        self.lasting = torch.contiguous_format
        if training.channels_last:
            self.lasting = torch.channels_last
            _lay_out(module, self.lasting)
        self.student, self.optimizer = self.fabric.setup(module, optimizer_of(module, training))
        if len(samples) < 2 * self.processes or training.batch_size < self.processes:
            raise RecipeError(too_few(len(samples), training.batch_size, self.processes))
        steps = len(in_batches(torch.arange(len(samples)), training.batch_size, 2 * self.processes))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: learning_rate_frac(step, steps * training.epochs, training.schedule),
        )
        self.of = digest([training.model_dump(), seed, len(samples)])
        self.to_compile = training.compile
        self.base = (-1, 0)
        self.unseen: list[tuple[int, Tensor, Mapping[str, Tensor]]] = []

    @property
    def leads(self) -> bool:
        """Whether this process tells and writes what all have come to."""
        return self.number == 0

    def batches(self, epoch: int) -> list[Tensor]:
        """The ids of the epoch's samples, step by step."""
        order = sample_order(self.samples, epoch_seed(self.seed, epoch))
        return in_batches(order, self.training.batch_size, 2 * self.processes)

    def seed_step(self, epoch: int, step: int) -> None:
        """Seeds what the module draws in a step, in this process."""
        place = step * self.processes + self.number
        if self.base[0] != epoch:
            self.base = (epoch, epoch_seed(self.seed, epoch))
        seed = (self.base[1] + place) % 2**63
        # torch.manual_seed goes through every kind of device: 0.4 ms, of a step of some.
        on_cpu = self.fabric.device.type == "cpu"
        (torch.default_generator.manual_seed if on_cpu else torch.manual_seed)(seed)

    def drawn(self, ids: Tensor, epoch: int, augment: Augment | None, view: int) -> Batch:
        """This process's part of the batch of `ids`, those with labels first, on its device."""
        ours = ids[self.number :: self.processes]
        inputs, labels = self.samples.take(ours)
        if augment is not None:
            inputs = augment(inputs, view_seeds(self.seed, view, ours))
        if self.training.channels_last:
            inputs = {
                name: value.contiguous(memory_format=self.lasting) if value.ndim == 4 else value
                for name, value in inputs.items()
            }
        inputs, labels = self.fabric.to_device((inputs, labels))
        return Batch(epoch, ours, inputs, labels, len(ids), int((ids < self.labelled).sum()))

    def advance(self, batch: Batch) -> dict[str, Tensor]:
        """The loss and its terms on `batch`, after which the weights have followed its gradient."""
        if self.to_compile:
            self._compile(batch)
        outputs = call(self.student, batch.inputs, names_of=self.module)
        terms = self.loss_of(outputs, batch)
        loss = total_of(terms)
        if self.processes > 1:
            # All gradients are averaged, also of an output that no term of this batch needs.
            loss = loss + sum(each.sum() for each in outputs.values() if each.requires_grad) * 0.0
        if self.fabric.device.type == "cpu" and not torch.isfinite(loss):
            return _kept(loss, terms)
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
        return _kept(loss, terms)

    def look(
        self, epoch: int, step: int, ids: Tensor, terms: Mapping[str, Tensor], *, now: bool
    ) -> None:
        """Stops at a loss that is not finite; on an accelerator, some steps later."""
        self.unseen.append((step, ids, terms))
        if not now and self.fabric.device.type != "cpu" and len(self.unseen) < LOOK_EVERY:
            return
        losses = torch.stack([values["loss"] for _, _, values in self.unseen])
        if not bool(torch.isfinite(losses).all()):
            step, ids, terms = self.unseen[int((~torch.isfinite(losses)).int().argmax())]
            raise RecipeError(_not_finite(epoch, step, ids, terms))
        self.unseen.clear()

    def _compile(self, batch: Batch) -> None:
        """Has the module compiled, if one step with it works; the step leaves nothing behind."""
        self.to_compile = False
        buffers = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        try:
            self.module.compile()
            terms = self.loss_of(call(self.student, batch.inputs, names_of=self.module), batch)
            self.fabric.backward(total_of(terms))
        except (RuntimeError, OSError, ImportError) as error:
            self.module._compiled_call_impl = None
            reason = (str(error).strip().splitlines() or [""])[0]
            self.log(f"not compiled, goes on without: {type(error).__name__}: {reason}")
        for name, buffer in self.module.named_buffers():
            buffer.copy_(buffers[name])
        self.optimizer.zero_grad(set_to_none=True)

    def due(self, step: int, saved: float) -> bool:
        """Whether all processes are to keep the state now, that of `saved` being the last."""
        if (step + 1) % LOOK_EVERY:
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
        """Keeps the state before `step` of the epoch after `records`."""
        totals = self.summed(totals)
        if not self.leads:
            return
        schedule = {"last_epoch": self.schedule.last_epoch, "_last_lr": self.schedule.get_last_lr()}
        state = {
            "of": self.of,
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
        """The records, the step to go on with and its epoch's totals, as `path` has them."""
        state = load_checkpoint(path) if path is not None else None
        if path is None or state is None:
            return [], 0, {}
        try:
            if state["of"] != self.of:
                raise ValueError("it is of a training of another configuration, seed or length")
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
        """Leaves the module as its owner expects it."""
        self.module._compiled_call_impl = None
        self.module.eval().cpu()
        if self.training.channels_last:
            _lay_out(self.module, torch.contiguous_format)


def _lay_out(module: nn.Module, memory_format: torch.memory_format) -> None:
    module.to(device=None, dtype=None, memory_format=memory_format)  # type: ignore[call-overload]


def total_of(terms: Mapping[str, Tensor]) -> Tensor:
    """The sum of the terms."""
    return functools.reduce(torch.add, terms.values())


def _kept(loss: Tensor, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in {"loss": loss, **terms}.items()}


def _means(totals: Mapping[str, Tensor], count: int) -> Record:
    """The mean loss, and that of each weighted term where it has more than one."""
    means = {name: float(total) / count for name, total in totals.items()}
    parts = {f"loss_{name}": mean for name, mean in means.items() if name != "loss"}
    return {"loss": means["loss"], **(parts if len(parts) > 1 else {})}


def _place(epoch: int, step: int, ids: Tensor) -> str:
    more = f" and {len(ids) - 8} more" if len(ids) > 8 else ""
    return f"epoch {epoch + 1}, step {step + 1}, samples {ids[:8].tolist()}{more}"


def _failed(epoch: int, step: int, ids: Tensor, error: Exception) -> Fault:
    return Fault(
        what="A training step failed in the network, the data or a loss.",
        at=_place(epoch, step, ids),
        got=f"{type(error).__name__}: {error}",
        expected="batches that the network takes, and labels that are its classes",
        fix="mend the data or the network; the traceback is in the run's log",
    )


def _not_finite(epoch: int, step: int, ids: Tensor, terms: Mapping[str, Tensor]) -> Fault:
    values = {name: float(value) for name, value in terms.items() if name != "loss"}
    bad = [name for name, value in values.items() if not math.isfinite(value)] or list(values)
    return Fault(
        what="The training loss is not finite.",
        at=f"{_place(epoch, step, ids)}; term {listed(bad)}",
        got=", ".join(f"{name} {value:.4g}" for name, value in values.items()),
        expected="a finite loss",
        fix="lower optimizer.learning_rate, or look for NaN in these samples",
    )
