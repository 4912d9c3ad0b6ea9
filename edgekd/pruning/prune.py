"""Prunes a network once, to a given share of its size or latency, without training it.

The pipeline trains the pruned network: see `edgekd.pipeline.stages.prune`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.data import Data, Samples
from edgekd.errors import Fault, RecipeError
from edgekd.network.network import Network, call
from edgekd.pruning.blocks import blocks_of
from edgekd.pruning.dependencies import Untouched, below, untouchable
from edgekd.pruning.importance import GRADIENTS, gradients_of
from edgekd.pruning.search import (
    CLOSE_FRAC,
    MOST_REMOVED,
    Found,
    Measure,
    changed_widths,
    check_keep,
    drop_to,
    prune_to,
)
from edgekd.pruning.sensitivity import Sensitivity, sensitivity, shares_at
from edgekd.pruning.sparsity import (
    apply_masks,
    kept_frac,
    magnitude_masks,
    n_of_m_masks,
    sparse_weights,
    uses_of,
)
from edgekd.pruning.structure import ChannelOptions, Pruned, Removal, prune_channels, without
from edgekd.recipe.pruning import Prune
from edgekd.system.files import write_json
from edgekd.system.progress import Progress, no_progress
from edgekd.tasks import TASKS, Task, find_metric
from edgekd.tasks.evaluate import count_macs

PRUNED = "pruned.json"
MASKS = "masks.safetensors"

GRADIENT_SAMPLES = 256
"""Training samples that the gradients of importances are computed on."""

JUDGED_SAMPLES = 1024
"""The largest number of validation samples for a scan, and for the choice of blocks."""

NOISE_FRAC = 0.05
"""The search ends with a latency at most this share below the requested one, as it is noisy."""


@dataclass(frozen=True)
class PrunedNetwork:
    """A pruned network, and what was removed from it.

    Attributes:
        network: the pruned network, in eval mode on the CPU, not trained since.
        removed: the blocks, heads and channels that were removed.
        masks: where the values of a weight are kept, by its name; for single weights.
        kept_frac: the share of the size or latency that is left.
        trials: the share removed from each candidate (0-1), and the share that was left.
        widths: the channels before and after of each layer whose width changed, by layer.
        untouched: the layers whose channels could not be removed, and the reasons.
        scanned: the sensitivity of each layer, if it was scanned.
    """

    network: Network
    removed: Removal = field(default_factory=Removal)
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    kept_frac: float = 1.0
    trials: tuple[tuple[float, float], ...] = ()
    widths: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    untouched: tuple[Untouched, ...] = ()
    scanned: tuple[Sensitivity, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing was removed."""
        return self.removed == Removal() and all(bool(mask.all()) for mask in self.masks.values())


def prune(
    network: Network,
    data: Data,
    config: Prune,
    *,
    task: Task = TASKS["classification"],
    metric: str = "accuracy",
    seed: int = 0,
    measure: Callable[[nn.Module], float] | Measure | None = None,
    progress: Progress = no_progress,
) -> PrunedNetwork:
    """A copy of `network` pruned to `config.keep` of its size or latency.

    Nothing is trained: the keys of recovery, `steps` and `target` in `config` have no effect.

    Args:
        data: gradients are computed on its training split, scans on its validation split.
        metric: the task's metric, for a scan.
        measure: the size or latency of a module. It is needed for a latency, which is measured
            where the network will run; otherwise multiply-accumulates or parameters are counted.
            A `Measure` also has the value of the network that `keep` is a share of, if that is
            not `network`.

    Raises:
        RecipeError: a path does not exist, the dependencies of channels cannot be traced, or no
            candidate is so small; the message names the smallest one.
        MissingPackageError: torch-pruning, which structured pruning needs, is not installed.
    """
    check_keep(config.keep)
    network = network.with_module(copy.deepcopy(network.module).eval().cpu())
    if config.method != "structured":
        return _weights(network, config)
    measure = _measure(network, config, measure)
    judge = _judge(network, data, task, metric, seed)

    def on_trial(number: int, left: float) -> None:
        progress("prune", f"a candidate with {left:.3f} {measure.what}", number)

    if config.blocks is not None:
        blocks_of(network.module, config.blocks, "prune.blocks")
        found = drop_to(
            network.module,
            config.blocks,
            network.example,
            config.keep,
            measure,
            lambda module: judge(module)[0],
            on_trial=on_trial,
        )
        return _pruned(network, found)
    candidates = _Candidates(network, data, config, task, seed)
    if config.scan or config.scope == "sensitivity":
        candidates.scan(judge, progress)
    close_frac = NOISE_FRAC if config.measure == "latency" else CLOSE_FRAC
    found = prune_to(config.keep, candidates, measure, close_frac=close_frac, on_trial=on_trial)
    return replace(_pruned(network, found), scanned=tuple(candidates.scanned))


def _measure(
    network: Network, config: Prune, measure: Callable[[nn.Module], float] | Measure | None
) -> Measure:
    names = {"macs": "of the multiply-accumulates", "parameters": "of the parameters"}
    what = names.get(config.measure, "of the latency")
    if isinstance(measure, Measure):
        return replace(measure, what=what)
    size = measure or counter_of(network, config)
    return Measure(size, size(network.module), what)


def _pruned(network: Network, found: Found) -> PrunedNetwork:
    pruned = found.pruned
    return PrunedNetwork(
        network=network.like(pruned.module),
        removed=pruned.removed,
        kept_frac=found.kept_frac,
        trials=found.trials,
        # The remaining blocks have new numbers, so that widths cannot be compared by name.
        widths={} if pruned.removed.blocks else changed_widths(network.module, pruned.module),
        untouched=pruned.untouched,
    )


def counter_of(network: Network, config: Prune) -> Callable[[nn.Module], float]:
    """A function that counts the multiply-accumulates, or the parameters, of a module.

    Raises:
        RecipeError: `config` asks for a latency, which cannot be counted.
    """
    if config.measure == "latency":
        raise RecipeError(
            Fault(
                what="A latency must be measured where the network will run.",
                at="prune.measure",
                got="latency, and no function that measures it",
                expected="measure=, a function of a module",
                fix='give measure=, or use measure = "macs"',
            )
        )
    if config.measure == "macs":
        return lambda module: float(count_macs(network.with_module(module)))
    return lambda module: float(network.with_module(module).parameter_count)


class _Candidates:
    """Returns the network without a share of the channels and heads that can be removed."""

    def __init__(self, network: Network, data: Data, config: Prune, task: Task, seed: int) -> None:
        self.network, self.config = network, config
        self.options = ChannelOptions(
            importance=config.importance,
            everywhere=config.scope == "global",
            round_to=config.round_to,
            untouched=untouchable(network.module, network.example, config.ignore),
            gradients=_gradients(network, data, config.importance, task, seed),
        )
        self.scanned: list[Sensitivity] = []

    def scan(self, judge: Callable[[nn.Module], tuple[float, float]], progress: Progress) -> None:
        """Measures the sensitivity of each layer."""
        module, example = self.network.module, self.network.example
        self.scanned = sensitivity(module, example, judge, self.options, progress=progress)

    def __call__(self, remove_frac: float) -> Pruned:
        by_cost = self.config.scope == "sensitivity"
        shares = shares_at(self.scanned, remove_frac / MOST_REMOVED) if by_cost else None
        options = replace(self.options, shares=shares)
        return prune_channels(self.network.module, self.network.example, remove_frac, options)


def _gradients(
    network: Network, data: Data, importance: str, task: Task, seed: int
) -> dict[str, Tensor] | None:
    kind = GRADIENTS.get(importance)
    if kind is None:
        return None
    samples, output = _samples(network, data.train), network.signature.output_names[0]
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    ids = order[:GRADIENT_SAMPLES]

    def losses_of(module: nn.Module) -> Iterator[Tensor]:
        for batch in ids.split(1 if kind == "squared" else 32):
            inputs, labels = samples.take(batch)
            yield task.loss(call(module, inputs)[output], labels)

    return gradients_of(network.module, losses_of, squared=kind == "squared")


def _judge(
    network: Network, data: Data, task: Task, metric: str, seed: int
) -> Callable[[nn.Module], tuple[float, float]]:
    """The loss and the metric of a module on samples of the validation split."""
    samples, output = _samples(network, data.validation), network.signature.output_names[0]
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    ids = order[:JUDGED_SAMPLES]
    measure = find_metric(task, metric)

    def judge(module: nn.Module) -> tuple[float, float]:
        outputs, targets = [], []
        with torch.no_grad():
            for batch in ids.split(256):
                inputs, labels = samples.take(batch)
                outputs.append(call(module.eval(), inputs)[output])
                assert labels is not None
                targets.append(labels)
        values, labels = torch.cat(outputs), torch.cat(targets)
        return float(task.loss(values, labels)), measure(values, labels)

    return judge


def _samples(network: Network, dataset: Any) -> Samples:
    return Samples(dataset, tuple(network.signature.input_names))


def _weights(network: Network, config: Prune) -> PrunedNetwork:
    """`network` with single weights set to zero."""
    module = network.module
    for path in config.ignore:
        below(module, path)
    costs: dict[str, float] | None = None
    if config.measure == "macs":
        sample = {name: tensor[:1] for name, tensor in network.example.items()}
        costs = {**uses_of(module, lambda: call(module, sample))}
    if config.method == "n-m":
        masks = n_of_m_masks(module, *config.n_of_m, ignore=config.ignore)
    else:
        masks = magnitude_masks(
            module,
            1.0 - config.keep,
            everywhere=config.scope == "global",
            ignore=config.ignore,
            costs=costs,
        )
    if not masks:
        raise RecipeError(_no_weights(config))
    apply_masks(module, masks)
    weights = sparse_weights(module, config.ignore)
    whole = {name: torch.ones_like(each, dtype=torch.bool) for name, each in weights.items()}
    left = kept_frac({**whole, **masks}, costs)
    return PrunedNetwork(
        network=network, masks=masks, kept_frac=left, trials=((1.0 - config.keep, left),)
    )


def _no_weights(config: Prune) -> Fault:
    needed = f" whose inputs are a multiple of {config.n_of_m[1]}" if config.method == "n-m" else ""
    return Fault(
        what="The network has no weights that can be made sparse.",
        at="prune.method",
        got=config.method + (f", ignoring {', '.join(config.ignore)}" if config.ignore else ""),
        expected=f"a linear layer or a convolution{needed}",
        fix='ignore fewer layers, or set prune.method = "unstructured"',
    )


def save_pruned(pruned: PrunedNetwork, folder: Path) -> None:
    """Writes what `load_pruned` needs to prune an equal network in the same way, and the report."""
    from safetensors.torch import save_file

    document = {
        "removed": pruned.removed.to_json(),
        "kept_frac": pruned.kept_frac,
        "trials": [list(each) for each in pruned.trials],
        "widths": {name: list(pair) for name, pair in pruned.widths.items()},
        "untouched": [vars(each) for each in pruned.untouched],
        "scanned": [vars(each) for each in pruned.scanned],
    }
    write_json(folder / PRUNED, document)
    if pruned.masks:
        save_file({name: mask.contiguous() for name, mask in pruned.masks.items()}, folder / MASKS)


def load_pruned(network: Network, folder: Path) -> PrunedNetwork:
    """`network` pruned as `save_pruned` recorded it in `folder`."""
    from safetensors.torch import load_file

    document = json.loads((folder / PRUNED).read_text(encoding="utf-8"))
    removed = Removal.from_json(document["removed"])
    masks = load_file(folder / MASKS) if (folder / MASKS).exists() else {}
    module = copy.deepcopy(network.module).eval().cpu()
    if masks:
        apply_masks(module, masks)
    else:
        module = without(module, network.example, removed)
    return PrunedNetwork(
        network=network.like(module),
        removed=removed,
        masks=masks,
        kept_frac=document["kept_frac"],
        trials=tuple((gone, left) for gone, left in document["trials"]),
        widths={name: (wide, narrow) for name, (wide, narrow) in document["widths"].items()},
        untouched=tuple(Untouched(**each) for each in document["untouched"]),
        scanned=tuple(
            Sensitivity(each["layer"], _pairs(each["losses"]), _pairs(each["metrics"]))
            for each in document["scanned"]
        ),
    )


def _pairs(rows: Any) -> tuple[tuple[float, float], ...]:
    return tuple((share, value) for share, value in rows)
