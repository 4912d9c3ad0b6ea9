"""The one training loop: every stage that trains calls it with a module and a loss.

The order of samples and the views of them are functions of (seed, epoch, sample), so a training
that was interrupted continues to the very same weights (bit for bit on a CPU).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.checkpoint import load_checkpoint, save_checkpoint, unreadable
from edgekd.data import Augment, Inputs, Mixed, Samples, labelled_count, view_seeds
from edgekd.errors import EdgekdError, Fault, RecipeError, listed
from edgekd.network import call
from edgekd.recipe import Optimizer, Training
from edgekd.store import digest

WARM_UP_FRAC = 0.05
"""Share of all steps over which the learning rate grows from 0: losses scaled by T^2 have larger
gradients, and an unnormalised network diverged without it."""


@dataclass(frozen=True)
class Batch:
    """One step's samples.

    Attributes:
        epoch: from 0.
        ids: of the samples in their dataset.
        inputs: as the student sees them, augmented.
        labels: of the samples that have one, which come first; None where none has.
    """

    epoch: int
    ids: Tensor
    inputs: Inputs
    labels: Tensor | None


LossOf = Callable[[dict[str, Tensor], Batch], dict[str, Tensor]]
"""The weighted terms of the loss, whose sum it is, of a module's named outputs on a batch."""

Record = dict[str, float]


def ignore(done: int, total: int, record: Record) -> None:
    """A `tell` that drops what it is told."""


def told(record: Record) -> str:
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
    tell: Callable[[int, int, Record], None] = ignore,
    checkpoint: Path | None = None,
) -> list[Record]:
    """What each epoch came to; `module` is trained in place and is the last epoch's, in eval mode.

    Args:
        training: epochs, batch size, optimizer and the rest.
        seed: of the order, the views and dropout.
        loss_of: the weighted terms of the loss by name; each is recorded.
        view_of: the number that seeds an epoch's views; it repeats where views are cached.
        validate: figures of the module, in eval mode, on the validation split after each epoch.
        tell: called after each epoch with (epochs done, epochs, record).
        checkpoint: where the state is kept after each epoch, and read from if it is there.

    Raises:
        RecipeError: the loss is not finite; the step, the samples and the term are named. Or a
            checkpoint cannot be written or read.
    """
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="auto", devices=1)
    optimizer = _optimizer(module, training.optimizer)
    student, optimizer = fabric.setup(module, optimizer)
    steps = len(_batches(torch.arange(len(samples)), training.batch_size))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _rate(step, steps * training.epochs, training.schedule)
    )
    of = digest([training.model_dump(), seed, len(samples)])
    records: list[Record] = []
    if checkpoint is not None:
        records = _restore(checkpoint, of, module, optimizer, schedule)
    for epoch in range(len(records), training.epochs):
        module.train()
        torch.manual_seed(_mix(seed, epoch))  # dropout's generator
        order = _order(samples, _mix(seed, epoch))
        totals: dict[str, Tensor] = {}
        for step, drawn in enumerate(_batches(order, training.batch_size)):
            ids = drawn[(drawn >= labelled_count(samples)).argsort(stable=True)]
            try:
                seen = (augment, seed, view_of(epoch))
                batch = _drawn(samples, ids, epoch, seen, fabric.to_device)
                terms = loss_of(call(student, batch.inputs, names_of=module), batch)
            except EdgekdError:
                raise
            except Exception as error:
                raise RecipeError(_failed(epoch, step, ids, error)) from error
            loss = torch.stack(list(terms.values())).sum()
            if not torch.isfinite(loss):
                raise RecipeError(_not_finite(epoch, step, ids, terms))
            optimizer.zero_grad(set_to_none=True)
            fabric.backward(loss)
            torch.nn.utils.clip_grad_norm_(module.parameters(), training.clip_norm)
            optimizer.step()
            schedule.step()
            for name, value in {"loss": loss, **terms}.items():
                totals[name] = totals.get(name, 0.0) + value.detach() * len(ids)
        module.eval()
        record = {
            "epoch": float(epoch + 1),
            **_means(totals, len(samples)),
            "learning_rate": float(schedule.get_last_lr()[0]),
            **(validate(module) if validate else {}),
        }
        records.append(record)
        if checkpoint is not None:
            save_checkpoint(checkpoint, _state(of, module, optimizer, schedule, records))
        tell(epoch + 1, training.epochs, record)
    module.eval().cpu()
    return records


def _order(samples: Samples | Mixed, seed: int) -> Tensor:
    """All samples in random order, those with labels dealt evenly among those without."""
    dice = torch.Generator().manual_seed(seed)
    own = labelled_count(samples)
    others = len(samples) - own
    if not own or not others:
        return torch.randperm(len(samples), generator=dice)
    ids = torch.cat(
        [torch.randperm(own, generator=dice), own + torch.randperm(others, generator=dice)]
    )
    place = torch.cat([(torch.arange(size) + 0.5) / size for size in (own, others)])
    return ids[place.argsort(stable=True)]


def _drawn(
    samples: Samples | Mixed,
    ids: Tensor,
    epoch: int,
    seen: tuple[Augment | None, int, int],
    to_device: Callable[[Any], Any],
) -> Batch:
    """The batch of the samples `ids`, seen as (augment, seed, view) make them, on the device."""
    inputs, labels = samples.take(ids)
    augment, seed, view = seen
    if augment is not None:
        inputs = augment(inputs, view_seeds(seed, view, ids))
    return Batch(epoch, ids, to_device(inputs), to_device(labels))


def _means(totals: Mapping[str, Tensor], count: int) -> Record:
    """The mean loss, and that of each weighted term where it has more than one."""
    means = {name: float(total) / count for name, total in totals.items()}
    parts = {f"loss_{name}": mean for name, mean in means.items() if name != "loss"}
    return {"loss": means["loss"], **(parts if len(parts) > 1 else {})}


def _optimizer(module: nn.Module, chosen: Optimizer) -> torch.optim.Optimizer:
    parameters = [entry for entry in module.parameters() if entry.requires_grad]
    rate, decay = chosen.learning_rate, chosen.weight_decay
    if chosen.name == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    if chosen.name == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
    return torch.optim.SGD(
        parameters,
        lr=rate,
        weight_decay=decay,
        momentum=chosen.momentum,
        nesterov=chosen.momentum > 0,
    )


def _batches(order: Tensor, size: int) -> list[Tensor]:
    """`order` in batches of `size`; a last one of a single sample, on which batch norm has no
    variance, goes to the one before."""
    batches = list(order.split(size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _rate(step: int, steps: int, schedule: str) -> float:
    """The learning rate at `step` of `steps`, as a share of the recipe's."""
    warm_up = max(1, round(WARM_UP_FRAC * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    if schedule == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def _mix(seed: int, epoch: int) -> int:
    return int(view_seeds(seed, epoch, torch.tensor([2**62]))[0])


def _state(
    of: str, module: nn.Module, optimizer: Any, schedule: Any, records: list[Record]
) -> dict[str, Any]:
    return {
        "of": of,
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": {"last_epoch": schedule.last_epoch, "_last_lr": schedule.get_last_lr()},
        "records": records,
    }


def _restore(path: Path, of: str, module: nn.Module, optimizer: Any, schedule: Any) -> list[Record]:
    state = load_checkpoint(path)
    if state is None:
        return []
    try:
        if state["of"] != of:
            raise ValueError("it is of a training with another configuration, seed or data length")
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
    except Exception as error:
        raise unreadable(path, error) from error
    schedule.last_epoch = state["schedule"]["last_epoch"]
    schedule._last_lr = state["schedule"]["_last_lr"]
    records: list[Record] = state["records"]
    return records


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
    values = {name: float(value.detach()) for name, value in terms.items()}
    bad = [name for name, value in values.items() if not math.isfinite(value)] or list(values)
    return Fault(
        what="The training loss is not finite.",
        at=f"{_place(epoch, step, ids)}; term {listed(bad)}",
        got=", ".join(f"{name} {value:.4g}" for name, value in values.items()),
        expected="a finite loss",
        fix="lower optimizer.learning_rate, or look for NaN in these samples",
    )
