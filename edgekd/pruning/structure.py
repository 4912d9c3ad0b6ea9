"""Removes whole channels and heads from a network, with everything that depends on them.

Source: Fang et al. 2023, arXiv:2301.12900; github.com/VainF/Torch-Pruning.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.errors import Fault, RecipeError
from edgekd.network.network import call
from edgekd.pruning.blocks import drop_blocks
from edgekd.pruning.dependencies import (
    HEADS,
    OUTPUT,
    Group,
    Untouched,
    followed,
    graph_of,
    groups_of,
    quiet,
    untouchable,
    widths,
    without_channels,
)
from edgekd.pruning.heads import heads_of, least_heads, remove_heads
from edgekd.pruning.importance import GRADIENTS, IMPORTANCES
from edgekd.system.packages import need

LEAST_KEPT = 0.1
"""The smallest share of a layer that is kept if the channels of all layers are ranked together."""

UNRANKED = "the importance needs something that is missing there, such as a batch norm"


@dataclass(frozen=True)
class Removal:
    """What was removed from a network, in enough detail to remove it from an equal network.

    Attributes:
        blocks: module paths of lists, each with the names of the removed blocks.
        heads: module paths of attention, each with the indices of the removed heads.
        channels: module paths of layers, each with the removed channels, in the order of removal;
            everything that depends on them is removed too.
    """

    blocks: tuple[tuple[str, tuple[str, ...]], ...] = ()
    heads: tuple[tuple[str, tuple[int, ...]], ...] = ()
    channels: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """This removal as a JSON object."""
        return {
            key: [[path, list(gone)] for path, gone in value] for key, value in vars(self).items()
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Removal:
        """The removal that `to_json` wrote."""
        return cls(
            **{key: tuple((path, tuple(gone)) for path, gone in document[key]) for key in document}
        )


@dataclass(frozen=True)
class Pruned:
    """A network without some of its channels, heads or blocks.

    Attributes:
        removed: what was removed.
        widths: the channels before and after of each layer whose width changed, by layer.
        untouched: the layers whose channels could not be removed.
    """

    module: nn.Module
    removed: Removal
    widths: Mapping[str, tuple[int, int]]
    untouched: tuple[Untouched, ...]


@dataclass(frozen=True)
class ChannelOptions:
    """Which channels of a network are removed.

    Attributes:
        importance: by what channels are ranked, a name of `IMPORTANCES`.
        everywhere: whether the channels of all layers are ranked together; otherwise every layer
            loses the same share.
        shares: other shares for the groups of these layers.
        round_to: the kept channels of a layer are a multiple of this, and at least one multiple.
        ignore: module paths; the layers there and below keep their channels.
        untouched: the result of `untouchable`, if it is known.
        gradients: the result of `gradients_of`, for importances that need gradients.
    """

    importance: str = "l2"
    everywhere: bool = False
    shares: Mapping[str, float] | None = None
    round_to: int | None = None
    ignore: Sequence[str] = ()
    untouched: Sequence[Untouched] | None = None
    gradients: Mapping[str, Tensor] | None = None


def prune_channels(
    module: nn.Module,
    example: Mapping[str, Tensor],
    remove_frac: float,
    options: ChannelOptions | None = None,
) -> Pruned:
    """A copy of `module` without this share of its channels, in eval mode on the CPU.

    Inputs and outputs keep their shapes. Attention loses whole heads, each module the same share.

    Args:
        example: inputs by name, batch first.
        remove_frac: 0-1.

    Raises:
        RecipeError: a path does not exist, the network cannot be traced, or gradients are missing.
        MissingPackageError: torch-pruning is not installed.
    """
    options = options or ChannelOptions()
    importance, gradients = options.importance, options.gradients
    score = IMPORTANCES[importance](need("torch_pruning", extra="prune"))
    if importance in GRADIENTS and gradients is None:
        raise RecipeError(_no_gradients(importance))
    untouched = options.untouched
    kept_whole = list(
        untouchable(module, example, options.ignore) if untouched is None else untouched
    )
    pruned = copy.deepcopy(module).eval().cpu()
    for name, parameter in pruned.named_parameters():
        parameter.grad = gradients[name].clone() if gradients is not None else None
    step = options.round_to or 1
    channels: list[tuple[str, tuple[int, ...]]] = []
    with quiet(), followed(module):
        heads = _remove_heads(pruned, example, remove_frac, kept_whole, importance, gradients)
        graph = graph_of(pruned, example)
        groups = groups_of(pruned, graph, [entry.layer for entry in kept_whole])
        scores_of = {group.root: score(group.whole) for group in groups}
        scored = [
            (group, scores_of[group.root]) for group in groups if scores_of[group.root] is not None
        ]
        kept_whole += [
            Untouched(name, UNRANKED) for name, each in scores_of.items() if each is None
        ]
        kept = (
            _kept_globally(scored, remove_frac, step)
            if options.everywhere
            else _kept_per_group(
                [group for group, _ in scored], options.shares or {}, remove_frac, step
            )
        )
        for (group, scores), count in zip(scored, kept, strict=True):
            gone = group.least(scores, count)
            some = without_channels(graph, group, gone) if gone else None
            if some is not None and graph.check_pruning_group(some):
                some.prune()
                channels.append((group.root, tuple(gone)))
        with torch.no_grad():
            call(pruned, example)
    for parameter in pruned.parameters():
        parameter.grad = None
    return _result(module, pruned, Removal(heads=heads, channels=tuple(channels)), kept_whole)


def _no_gradients(importance: str) -> Fault:
    return Fault(
        what=f"The importance {importance!r} needs gradients of the loss.",
        at="prune.importance",
        got="no gradients",
        expected="gradients on some samples",
        fix="give gradients=edgekd.pruning.importance.gradients_of(module, losses_of), or use l2",
    )


def _result(
    module: nn.Module, pruned: nn.Module, removed: Removal, kept_whole: Sequence[Untouched]
) -> Pruned:
    before, after = widths(module), widths(pruned)
    changed = {name: (before[name], after[name]) for name in after if before[name] != after[name]}
    untouched = tuple(entry for entry in kept_whole if entry.reason not in (OUTPUT, HEADS))
    return Pruned(pruned, removed, changed, untouched)


def _kept_per_group(
    groups: Sequence[Group], shares: Mapping[str, float], remove_frac: float, round_to: int
) -> list[int]:
    """The channels that each part of each group keeps if every group loses its own share.

    If rounding removes more of one group, the next loses less, so that the total is right.
    """
    owed, counts = 0.0, []
    for group in groups:
        share = shares.get(group.root, remove_frac)
        count = group.kept(share - owed if share else 0.0, round_to)
        counts.append(count)
        half = round_to / (2 * group.width)
        owed = min(half, max(-half, 1 - share + owed - count / group.width)) if share else owed
    return counts


def _kept_globally(
    scored: Sequence[tuple[Group, Tensor]], remove_frac: float, round_to: int
) -> list[int]:
    """The channels that each part of each group keeps if all channels are ranked together."""
    if not scored:
        return []
    scores = [group.by_part(score) for group, score in scored]
    ranked = torch.cat(scores)
    gone = torch.zeros(len(ranked))
    # Among equal channels the first ones are removed, exactly as many as requested.
    gone[ranked.argsort(stable=True)[: round(remove_frac * len(ranked))]] = 1.0
    kept = []
    for (group, _), part in zip(scored, gone.split([len(each) for each in scores]), strict=True):
        share = min(float(part.mean()), 1 - LEAST_KEPT)
        kept.append(group.kept(share, round_to))
    return kept


def _remove_heads(
    module: nn.Module,
    example: Mapping[str, Tensor],
    remove_frac: float,
    kept_whole: Sequence[Untouched],
    importance: str,
    gradients: Mapping[str, Tensor] | None,
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Removes this share of the heads of `module`; the removed heads by attention module."""
    whole = {entry.layer for entry in kept_whole if entry.reason == HEADS}
    removed = []
    for heads in heads_of(module, graph_of(module, example)) if whole else ():
        count = min(heads.count - 1, round(remove_frac * heads.count))
        if count < 1 or not whole.issuperset(heads.projections):
            continue
        gone = least_heads(module, heads, count, importance, gradients)
        remove_heads(module, heads, gone)
        removed.append((heads.module, tuple(gone)))
    return tuple(removed)


def without(module: nn.Module, example: Mapping[str, Tensor], removed: Removal) -> nn.Module:
    """A copy of `module` without what `removed` lists, in eval mode on the CPU.

    Raises:
        RecipeError: the module is not equal to the one that this was removed from.
    """
    module = copy.deepcopy(module).eval().cpu()
    with quiet(), followed(module):
        for path, names in removed.blocks:
            drop_blocks(module.get_submodule(path), names)
        gone = dict(removed.heads)
        for heads in heads_of(module, graph_of(module, example)) if gone else ():
            if heads.module in gone:
                remove_heads(module, heads, gone[heads.module])
        graph: Any = graph_of(module, example) if removed.channels else None
        for path, channels in removed.channels:
            layer = module.get_submodule(path)
            remove = graph.get_pruner_of_module(layer).prune_out_channels
            graph.get_pruning_group(layer, remove, list(channels)).prune()
    return module
