"""Distributed training: several processes that train one network.

They are started by `torchrun`, or by `edgekd run` if the recipe asks for several devices.
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

TIMEOUT = timedelta(days=2)
"""How long a process waits for the others, one of which may train a teacher in the meantime."""


def launched() -> int:
    """The number of processes that the launcher started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


_ALONE = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Keeps this process from joining others, which have ended or do something else."""
    before = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(before)


def join() -> None:
    """Joins the other processes that a launcher started, once; does nothing inside `alone`."""
    if launched() > 1 and not distributed.is_initialized() and not _ALONE.get():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=TIMEOUT)


def leave() -> None:
    """Leaves the process group that `join` created, if there is one."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def world() -> tuple[int, int]:
    """The number of this process, from 0, and the number of processes."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def wait() -> None:
    """Waits until every process reaches this call."""
    if world()[1] > 1:
        distributed.barrier()


@contextmanager
def one_after_the_first() -> Iterator[None]:
    """Runs the block in the first process before the others run theirs."""
    number, _ = world()
    if number:
        wait()
    yield
    if not number:
        wait()


def agreed(value: bool) -> bool:
    """The first process's `value`, in every process."""
    if world()[1] == 1:
        return value
    shared = torch.tensor(int(value))
    distributed.broadcast(shared, src=0)
    return bool(shared)


def part_of(count: int, number: int, processes: int) -> int:
    """The number of samples of the process `number` if `count` are distributed round-robin."""
    return (count - number + processes - 1) // processes


def gathered(own: Tensor, count: int) -> Tensor:
    """The `count` rows of all processes, in the order of the processes.

    Only this process's rows have a gradient. All processes compute the same loss of the same rows,
    so that their gradients add up to the whole gradient.
    """
    number, processes = world()
    if processes == 1:
        return own
    most = part_of(count, 0, processes)
    padded = own.new_zeros((most, *own.shape[1:]))
    padded[: len(own)] = own.detach()
    rows = [torch.empty_like(padded) for _ in range(processes)]
    distributed.all_gather(rows, padded)
    parts = [part[: part_of(count, rank, processes)] for rank, part in enumerate(rows)]
    parts[number] = own
    return torch.cat(parts)


def summed(values: Tensor) -> Tensor:
    """The sum over the processes."""
    if world()[1] > 1:
        values = values.clone()
        distributed.all_reduce(values)
    return values


def check_precision(training: Training, at: str = "distill") -> None:
    """Checks that this machine can train in the requested precision.

    Raises:
        RecipeError: it is fp16, and there is no accelerator.
    """
    if training.precision == "fp16" and not torch.cuda.is_available():
        raise RecipeError(
            Fault(
                what="A CPU cannot train in float16.",
                at=f"{at}.precision",
                got="'fp16', and no accelerator here",
                expected="fp32 or bf16 on a CPU",
                fix='set precision = "fp32", which is also faster on most CPUs',
            )
        )


def fabric_of(training: Training, processes: int) -> Any:
    """A Fabric that moves and casts tensors and averages the gradients of the processes."""
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
        fabric.launch()  # Starts no process: the launcher has started them.
    return fabric


def too_few(samples: int, size: int, processes: int) -> Fault:
    """The fault of batches that are too small for the number of processes."""
    return Fault(
        what=f"There are too few samples for {processes} processes.",
        at="distill.devices",
        got=f"{samples} samples in batches of {size}",
        expected=f"batches of {processes} or more, and {2 * processes} samples or more",
        fix="ask for fewer devices",
    )
