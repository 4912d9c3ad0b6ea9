"""Several processes that train one network: which one this is, and what the others hold.

They are started by `torchrun`, or by `edgekd run` for a recipe that asks for several devices.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from edgekd.errors import Fault, RecipeError
from edgekd.recipe.training import Training

PATIENCE = timedelta(days=2)
"""How long a process waits for the others: one may train a teacher, or ask it for its outputs."""


def launched() -> int:
    """The number of processes that the launcher of this one started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


_ALONE = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """While open, what is trained meets no other process: they have ended, or do something else."""
    before = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(before)


def join() -> None:
    """Meets the other processes, where a launcher started several; does nothing the second time,
    and where this one is `alone`."""
    if launched() > 1 and not distributed.is_initialized() and not _ALONE.get():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE)


def leave() -> None:
    """Ends what `join` began, where it did."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def world() -> tuple[int, int]:
    """The number of this process, from 0, and how many there are."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def wait() -> None:
    """Waits until every process is here."""
    if world()[1] > 1:
        distributed.barrier()


@contextmanager
def one_after_the_first() -> Iterator[None]:
    """While open in the first process, the others wait to open theirs."""
    number, _ = world()
    if number:
        wait()
    yield
    if not number:
        wait()


def agreed(value: bool) -> bool:
    """What the first process says."""
    if world()[1] == 1:
        return value
    told = torch.tensor(int(value))
    distributed.broadcast(told, src=0)
    return bool(told)


def part_of(count: int, number: int, processes: int) -> int:
    """How many of `count` things dealt one by one the process `number` has."""
    return (count - number + processes - 1) // processes


def gathered(ours: Tensor, count: int) -> Tensor:
    """The rows of all processes, `count` of them dealt one by one, in the order of the processes.

    A gradient reaches our own rows. All processes compute the same of the same rows, so that the
    sum of what each finds for its own is the whole gradient.
    """
    number, processes = world()
    if processes == 1:
        return ours
    most = part_of(count, 0, processes)
    padded = ours.new_zeros((most, *ours.shape[1:]))
    padded[: len(ours)] = ours.detach()
    rows = [torch.empty_like(padded) for _ in range(processes)]
    distributed.all_gather(rows, padded)
    found = [row[: part_of(count, place, processes)] for place, row in enumerate(rows)]
    found[number] = ours
    return torch.cat(found)


def summed(values: Tensor) -> Tensor:
    """The sum over the processes."""
    if world()[1] > 1:
        values = values.clone()
        distributed.all_reduce(values)
    return values


def check_precision(training: Training, at: str = "distill") -> None:
    """Finds out whether a training can compute as it is asked to here.

    Raises:
        RecipeError: it cannot.
    """
    if training.precision == "fp16" and not torch.cuda.is_available():
        raise RecipeError(
            Fault(
                what="float16 cannot be trained in on a CPU.",
                at=f"{at}.precision",
                got="'fp16', and no accelerator here",
                expected="fp32 or bf16 on a CPU",
                fix='set precision = "fp32": on most CPUs it is the faster one too',
            )
        )


def fabric_of(training: Training, processes: int) -> Any:
    """Who moves tensors to the device, casts them and averages the gradients of the processes."""
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    local = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    check_precision(training)
    fabric = Fabric(
        accelerator="auto",
        devices=local if processes > 1 else 1,
        num_nodes=processes // local if processes > 1 else 1,
        strategy=DDPStrategy(find_unused_parameters=True) if processes > 1 else "auto",
        precision={"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[training.precision],
    )
    if processes > 1:
        fabric.launch()  # Starts nothing: a launcher has started us.
    return fabric


def too_few(samples: int, size: int, processes: int) -> Fault:
    """The fault of batches that cannot be dealt to so many processes."""
    return Fault(
        what=f"There are too few samples for {processes} processes.",
        at="distill.devices",
        got=f"{samples} samples in batches of {size}",
        expected=f"batches of {processes} or more, and {2 * processes} samples or more",
        fix="ask for fewer devices",
    )
