"""Runs a torch network on a dataset: its outputs, its metric, its multiply-accumulates."""

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
from edgekd.tasks import Metric, Task, find_metric

BATCH_SIZE = 512

CHECKED_LABELS = 4
"""Samples whose labels are checked before any work, if the dataset computes its items."""


def outputs_of(
    module: nn.Module,
    samples: Samples | Mixed,
    *,
    view: Callable[[Inputs, Tensor], Inputs] | None = None,
) -> dict[str, Tensor]:
    """The named outputs of `module`, in eval mode, for all samples in order, on the CPU.

    The module is left in the mode it was in; no gradient is kept.

    Args:
        view: returns the inputs to use instead of a batch's own, given these and the sample ids.
    """
    was_training = module.training
    module.eval()
    device = next((entry.device for entry in module.parameters()), torch.device("cpu"))
    batches: dict[str, list[Tensor]] = {}
    try:
        with torch.no_grad():
            for ids in samples.batches(BATCH_SIZE):
                inputs, _ = samples.take(ids)
                inputs = view(inputs, ids) if view else inputs
                moved = {name: tensor.to(device) for name, tensor in inputs.items()}
                try:
                    outputs = call(module, moved)
                except Exception as error:
                    raise RecipeError(_fault(module, len(ids), error)) from error
                for name, value in outputs.items():
                    batches.setdefault(name, []).append(value.cpu())
    finally:
        module.train(was_training)
    return {name: torch.cat(values) for name, values in batches.items()}


def _fault(module: nn.Module, count: int, error: Exception) -> Fault:
    return Fault(
        what="The network failed on a batch of the data.",
        at=f"{type(module).__name__}, a batch of {count}",
        got=f"{type(error).__name__}: {error}",
        expected="a network that takes batches of any size",
        fix="correct its forward; an exported program needs a dynamic batch dimension",
    )


def score(module: nn.Module, output: str, samples: Samples, task: Task, metric: str) -> float:
    """The metric of the module's output named `output` on all samples."""
    return find_metric(task, metric)(outputs_of(module, samples)[output], samples.labels())


def by_slice(
    metric: Metric, outputs: Tensor, targets: Tensor, slices: Mapping[str, Tensor]
) -> dict[str, float | None]:
    """The metric on each slice; None if it is undefined there, such as AUROC with one class.

    Args:
        slices: the sample indices of each slice, by name.
    """
    values: dict[str, float | None] = {}
    for name, ids in slices.items():
        try:
            value = metric(outputs[ids], targets[ids])
        except (ValueError, RuntimeError, IndexError, RecipeError):
            value = math.nan
        values[name] = value if math.isfinite(value) else None
    return values


def check_labels(
    samples: Samples, network: Network, task: Task, split: str, metric: str | None = None
) -> None:
    """Checks that the labels of a split fit the task: all labels in memory, otherwise a few.

    Args:
        metric: the metric that is measured on this split, if any.

    Raises:
        RecipeError: labels have the wrong shape, are not classes of the network, or are not what
            the metric takes.
    """
    few = torch.arange(min(CHECKED_LABELS, len(samples)))
    labels = samples.labels() if samples.in_memory else samples.take(few)[1]
    assert labels is not None
    output = network.signature.outputs[0]
    if not any(part in output.dtype for part in ("float", "int")):
        return
    fault = task.label_fault((None, *output.shape[1:]), labels)
    takes = find_metric(task, metric).takes if metric is not None else None
    if fault is None and takes is not None and (takes == "numbers") != labels.is_floating_point():
        fault = _metric_fault(task, str(metric), labels)
    if fault is not None:
        raise RecipeError(replace(fault, at=f"data.load, {split}"))


def _metric_fault(task: Task, metric: str, labels: Tensor) -> Fault:
    takes = find_metric(task, metric).takes
    others = [name for name, other in task.metrics.items() if other.takes != takes]
    return Fault(
        what=f"{metric} cannot be measured with these labels.",
        at="",
        got=str(labels.dtype).removeprefix("torch."),
        expected="integer classes" if takes == "classes" else "real numbers",
        fix=f"set accept.metric to {listed(others)}"
        if others
        else "give the split labels of this kind",
    )


def count_macs(network: Network) -> int:
    """Multiply-accumulates of one sample: half the count of torch's FlopCounterMode.

    Source: torch.utils.flop_counter, which counts convolutions, matrix products and attention.
    """
    from torch.utils.flop_counter import FlopCounterMode

    module = copy.deepcopy(network.module).eval().cpu()
    sample = {name: tensor[:1] for name, tensor in network.example.items()}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(module, sample)
    return int(counter.get_total_flops()) // 2
