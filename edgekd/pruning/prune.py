"""Something taken out of a network once, to the share that is asked for.

Training comes after it, and is not done here: see `edgekd.pipeline.stages.prune`.
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
from edgekd.pruning.search import MOST_REMOVED, Found, changed_widths, check_keep, drop_to, prune_to
from edgekd.pruning.sensitivity import Sensitivity, sensitivity, shares_at
from edgekd.pruning.sparsity import (
    apply_masks,
    kept_frac,
    magnitude_masks,
    n_of_m_masks,
    sparse_weights,
    uses_of,
)
from edgekd.pruning.structure import Pruned, Removal, prune_channels, without
from edgekd.recipe.pruning import Prune
from edgekd.system.files import write_json
from edgekd.system.progress import Progress, no_progress
from edgekd.tasks import TASKS, Task, find_metric
from edgekd.tasks.evaluate import count_macs

PRUNED = "cut.json"
MASKS = "masks.safetensors"

GRADIENT_SAMPLES = 256
"""Training samples that importances with gradients look at."""

JUDGED_SAMPLES = 1024
"""Validation samples at most that a scan, and the choice of blocks, look at."""

NOISE_FRAC = 0.05
"""How close under the asked share a latency ends the search: it is not known better."""


@dataclass(frozen=True)
class PrunedNetwork:
    """What one cut came to.

    Attributes:
        network: without what was taken out, in eval mode on the CPU; not trained since.
        removed: the blocks, heads and channels that went.
        masks: by name of a weight, where its values are kept; for single weights.
        kept_frac: the share that is left of what was measured.
        trials: of each candidate, how much was removed (0 to 1) and the share that was left.
        widths: by layer, its channels before and after, where the two differ.
        untouched: layers whose channels could not be removed, and why.
        scanned: what removing channels of each layer alone costs, where it was asked for.
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
        """Whether nothing was taken out."""
        return self.removed == Removal() and all(bool(mask.all()) for mask in self.masks.values())


def prune(
    network: Network,
    data: Data,
    config: Prune,
    *,
    task: Task = TASKS["classification"],
    metric: str = "accuracy",
    seed: int = 0,
    measure: Callable[[nn.Module], float] | None = None,
    whole: float | None = None,
    progress: Progress = no_progress,
) -> PrunedNetwork:
    """`network` without so much that `config.keep` is left of it; `network` is not changed.

    Nothing is trained: of `config`, the keys of recovery, `steps` and `target` do nothing here.

    Args:
        data: importances with gradients look at its training split, scans at its validation split.
        metric: of the task, for a scan.
        measure: of a network, what `keep` is a share of; needed for a latency, which is measured
            where the network will run. Otherwise multiply-accumulates or parameters are counted.
        whole: what that is of the network `keep` is a share of; of `network` where it is not given.

    Raises:
        RecipeError: a path does not exist, what depends on channels cannot be followed, or no
            candidate is so small; the smallest is told.
        MissingPackageError: torch-pruning, which structured pruning needs, is not installed.
    """
    check_keep(config.keep)
    network = network.with_module(copy.deepcopy(network.module).eval().cpu())
    if config.method != "structured":
        return _weights(network, config)
    counted = measure or counter_of(network, config)
    whole = counted(network.module) if whole is None else whole
    what = {"macs": "of the multiply-accumulates", "parameters": "of the parameters"}
    judge = _judge(network, data, task, metric, seed)

    def on_trial(number: int, left: float) -> None:
        share = f"{left:.3f} {what.get(config.measure, 'of the latency')}"
        progress("prune", f"a candidate of {share}", number)

    common: dict[str, Any] = {
        "whole": whole,
        "what": what.get(config.measure, "of the latency"),
        "on_trial": on_trial,
    }
    if config.blocks is not None:
        blocks_of(network.module, config.blocks, "prune.blocks")
        found = drop_to(
            network.module,
            config.blocks,
            network.example,
            config.keep,
            counted,
            lambda module: judge(module)[0],
            **common,
        )
        return _cut(network, found)
    candidates = _Candidates(network, data, config, task, seed)
    if config.scan or config.scope == "sensitivity":
        candidates.scan(judge, progress)
    close = NOISE_FRAC if config.measure == "latency" else None
    if close is not None:
        common["close_frac"] = close
    found = prune_to(config.keep, candidates, counted, **common)
    return replace(_cut(network, found), scanned=tuple(candidates.scanned))


def _cut(network: Network, found: Found) -> PrunedNetwork:
    pruned = found.pruned
    return PrunedNetwork(
        network=network.like(pruned.module),
        removed=pruned.removed,
        kept_frac=found.kept_frac,
        trials=found.trials,
        # Blocks that are left are numbered anew.
        widths={} if pruned.removed.blocks else changed_widths(network.module, pruned.module),
        untouched=pruned.untouched,
    )


def counter_of(network: Network, config: Prune) -> Callable[[nn.Module], float]:
    """What counts the multiply-accumulates, or the parameters, of such a network.

    Raises:
        RecipeError: a latency is asked for, which cannot be counted.
    """
    if config.measure == "latency":
        raise RecipeError(
            Fault(
                what="A latency is measured where the network will run.",
                at="prune.measure",
                got="latency, and nothing to measure it with",
                expected="measure=, a function of a module",
                fix='give measure=, or use measure = "macs"',
            )
        )
    if config.measure == "macs":
        return lambda module: float(count_macs(network.with_module(module)))
    return lambda module: float(network.with_module(module).parameter_count)


class _Candidates:
    """The network without a share of what can be removed of its channels and heads."""

    def __init__(self, network: Network, data: Data, config: Prune, task: Task, seed: int) -> None:
        self.network, self.config = network, config
        self.untouched = untouchable(network.module, network.example, config.ignore)
        self.gradients = _gradients(network, data, config.importance, task, seed)
        self.scanned: list[Sensitivity] = []

    def scan(self, judge: Callable[[nn.Module], tuple[float, float]], progress: Progress) -> None:
        """Finds out what removing channels of each layer alone costs."""
        self.scanned = sensitivity(
            self.network.module,
            self.network.example,
            judge,
            importance=self.config.importance,
            round_to=self.config.round_to,
            untouched=self.untouched,
            gradients=self.gradients,
            progress=progress,
        )

    def __call__(self, remove_frac: float) -> Pruned:
        by_cost = self.config.scope == "sensitivity"
        return prune_channels(
            self.network.module,
            self.network.example,
            remove_frac,
            importance=self.config.importance,
            everywhere=self.config.scope == "global",
            shares=shares_at(self.scanned, remove_frac / MOST_REMOVED) if by_cost else None,
            round_to=self.config.round_to,
            untouched=self.untouched,
            gradients=self.gradients,
        )


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
        for each in ids.split(1 if kind == "squared" else 32):
            inputs, labels = samples.take(each)
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

    def judged(module: nn.Module) -> tuple[float, float]:
        found, targets = [], []
        with torch.no_grad():
            for each in ids.split(256):
                inputs, labels = samples.take(each)
                found.append(call(module.eval(), inputs)[output])
                assert labels is not None
                targets.append(labels)
        values, labels = torch.cat(found), torch.cat(targets)
        return float(task.loss(values, labels)), measure(values, labels)

    return judged


def _samples(network: Network, dataset: Any) -> Samples:
    return Samples(dataset, tuple(network.signature.input_names))


def _weights(network: Network, config: Prune) -> PrunedNetwork:
    """`network` with single weights at zero."""
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


def save_cut(cut: PrunedNetwork, folder: Path) -> None:
    """Writes what `load_cut` needs to make the same cut again, and what a report tells."""
    from safetensors.torch import save_file

    document = {
        "removed": cut.removed.to_json(),
        "kept_frac": cut.kept_frac,
        "trials": [list(each) for each in cut.trials],
        "widths": {name: list(pair) for name, pair in cut.widths.items()},
        "untouched": [vars(each) for each in cut.untouched],
        "scanned": [vars(each) for each in cut.scanned],
    }
    write_json(folder / PRUNED, document)
    if cut.masks:
        save_file({name: mask.contiguous() for name, mask in cut.masks.items()}, folder / MASKS)


def load_cut(network: Network, folder: Path) -> PrunedNetwork:
    """The cut of `network` that `save_cut` wrote into `folder`."""
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
