"""What a torch network gives on a dataset, how good that is, and how much work it takes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgekd.data import Inputs, Mixed, Samples
from edgekd.errors import Fault, RecipeError
from edgekd.network import Network, call
from edgekd.task import Task

BATCH_SIZE = 512


def outputs_of(
    module: nn.Module,
    samples: Samples | Mixed,
    *,
    view: Callable[[Inputs, Tensor], Inputs] | None = None,
) -> dict[str, Tensor]:
    """The named outputs of `module`, in eval mode, for all samples in order, on the CPU.

    The module is left in the mode it was in; no gradient is kept.

    Args:
        view: what the module sees instead of a batch's inputs, given those and the samples' ids.
    """
    was_training = module.training
    module.eval()
    device = next((entry.device for entry in module.parameters()), torch.device("cpu"))
    found: dict[str, list[Tensor]] = {}
    try:
        with torch.no_grad():
            for ids in samples.batches(BATCH_SIZE):
                inputs, _ = samples.take(ids)
                seen = view(inputs, ids) if view else inputs
                moved = {name: tensor.to(device) for name, tensor in seen.items()}
                try:
                    outputs = call(module, moved)
                except Exception as error:
                    raise RecipeError(_fault(module, len(ids), error)) from error
                for name, value in outputs.items():
                    found.setdefault(name, []).append(value.cpu())
    finally:
        module.train(was_training)
    return {name: torch.cat(values) for name, values in found.items()}


def _fault(module: nn.Module, count: int, error: Exception) -> Fault:
    return Fault(
        what="The network failed on a batch of the data.",
        at=f"{type(module).__name__}, a batch of {count}",
        got=f"{type(error).__name__}: {error}",
        expected="a network that takes batches of any size",
        fix="mend its forward; an exported program needs a dynamic batch dimension",
    )


def score(module: nn.Module, output: str, samples: Samples, task: Task, metric: str) -> float:
    """The task's `metric` of the module's `output` on all `samples`."""
    return task.metrics[metric](outputs_of(module, samples)[output], samples.labels())


def count_macs(network: Network) -> int:
    """Multiply-accumulates of one sample: half of what torch's FlopCounterMode counts.

    Source: torch.utils.flop_counter; it counts convolutions, matrix products and attention.
    """
    from torch.utils.flop_counter import FlopCounterMode

    module = copy.deepcopy(network.module).eval().cpu()
    sample = {name: tensor[:1] for name, tensor in network.example.items()}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(module, sample)
    return int(counter.get_total_flops()) // 2
