"""What a torch network gives on a dataset, how good that is, and how much work it takes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from edgekd.data import Inputs, Mixed, Samples
from edgekd.errors import Fault, RecipeError, listed
from edgekd.network.network import Network, call
from edgekd.tasks import Metric, Task

BATCH_SIZE = 512

LOOKED_AT = 4
"""Samples of a dataset that makes its items, whose labels are looked at before any work."""


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


def by_slice(
    metric: Metric, outputs: Tensor, targets: Tensor, slices: Mapping[str, Tensor]
) -> dict[str, float | None]:
    """The metric on the samples of each slice; None where it is not defined on so few or so alike.

    Args:
        slices: by name, the numbers of its samples.
    """
    found: dict[str, float | None] = {}
    for name, ids in slices.items():
        try:
            value = metric(outputs[ids], targets[ids])
        except (ValueError, RuntimeError, IndexError, RecipeError):
            value = math.nan
        found[name] = value if math.isfinite(value) else None
    return found


def check_labels(
    samples: Samples, network: Network, task: Task, split: str, metric: str | None = None
) -> None:
    """Finds out whether the labels of a split are the task's: all that are in memory, else a few.

    Args:
        metric: measured on this split, of those of the task.

    Raises:
        RecipeError: they have another shape, are no classes of the network, or not what the metric
            is of.
    """
    few = torch.arange(min(LOOKED_AT, len(samples)))
    labels = samples.labels() if samples.in_memory else samples.take(few)[1]
    assert labels is not None
    output = network.signature.outputs[0]
    if not any(part in output.dtype for part in ("float", "int")):
        return
    fault = task.label_fault((None, *output.shape[1:]), labels)
    takes = task.metrics[metric].takes if metric is not None else None
    if fault is None and takes is not None and (takes == "numbers") != labels.is_floating_point():
        fault = _no_metric(task, str(metric), labels)
    if fault is not None:
        raise RecipeError(replace(fault, at=f"data.load, {split}"))


def _no_metric(task: Task, metric: str, labels: Tensor) -> Fault:
    takes = task.metrics[metric].takes
    others = [name for name, other in task.metrics.items() if other.takes != takes]
    return Fault(
        what=f"{metric} cannot be measured with these labels.",
        at="",
        got=str(labels.dtype).removeprefix("torch."),
        expected="whole numbers of classes" if takes == "classes" else "real numbers",
        fix=f"set accept.metric to {listed(others)}" if others else "give the split such labels",
    )


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
