"""Whole channels and heads removed from a network, with all that depends on them.

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
"""Of a layer, where channels of all layers are ranked together: it could lose every one."""

UNRANKED = "the importance has nothing to look at there, such as a batch norm"


@dataclass(frozen=True)
class Removal:
    """What was taken out of a network: enough to take the same out of another one like it.

    Attributes:
        blocks: module paths of lists, each with the names of the blocks that went.
        heads: module paths of attention, each with the numbers of the heads that went.
        channels: module paths of layers, each with the channels that went with all that depends
            on them, in the order they went.
    """

    blocks: tuple[tuple[str, tuple[str, ...]], ...] = ()
    heads: tuple[tuple[str, tuple[int, ...]], ...] = ()
    channels: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
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
        removed: what was taken out.
        widths: by layer, its channels before and after, where the two differ.
        untouched: layers whose channels could not be removed.
    """

    module: nn.Module
    removed: Removal
    widths: Mapping[str, tuple[int, int]]
    untouched: tuple[Untouched, ...]


def prune_channels(
    module: nn.Module,
    example: Mapping[str, Tensor],
    remove_frac: float,
    *,
    importance: str = "l2",
    everywhere: bool = False,
    shares: Mapping[str, float] | None = None,
    round_to: int | None = None,
    ignore: Sequence[str] = (),
    untouched: Sequence[Untouched] | None = None,
    gradients: Mapping[str, Tensor] | None = None,
) -> Pruned:
    """A copy of `module` without this share of the channels of its layers, in eval mode on the CPU.

    Inputs and outputs keep their shapes. Of attention, whole heads go, in each module its share.

    Args:
        example: inputs by name, batch first.
        remove_frac: 0 to 1.
        importance: of what is kept; a name of `IMPORTANCES`.
        everywhere: whether channels of all layers are ranked together; else the share is each
            layer's own.
        shares: other shares for the groups of these layers.
        round_to: what is kept of a layer is a multiple of this, at least one.
        ignore: module paths, the layers below which keep their channels.
        untouched: what `untouchable` found, where it has been asked.
        gradients: by name of a parameter, what `gradients_of` found, for importances that look
            at them.

    Raises:
        RecipeError: a path does not exist, the network cannot be traced, or gradients are missing.
        MissingPackageError: torch-pruning is not installed.
    """
    measure = IMPORTANCES[importance](need("torch_pruning", extra="prune"))
    if importance in GRADIENTS and gradients is None:
        raise RecipeError(_no_gradients(importance))
    stay = list(untouchable(module, example, ignore) if untouched is None else untouched)
    pruned = copy.deepcopy(module).eval().cpu()
    for name, parameter in pruned.named_parameters():
        parameter.grad = gradients[name].clone() if gradients is not None else None
    step = round_to or 1
    channels: list[tuple[str, tuple[int, ...]]] = []
    with quiet(), followed(module):
        heads = _without_heads(pruned, example, remove_frac, stay, importance, gradients)
        graph = graph_of(pruned, example)
        groups = groups_of(pruned, graph, [each.layer for each in stay])
        worth = {group.root: measure(group.whole) for group in groups}
        scored = [(group, worth[group.root]) for group in groups if worth[group.root] is not None]
        stay += [Untouched(name, UNRANKED) for name, found in worth.items() if found is None]
        kept = (
            _ranked(scored, remove_frac, step)
            if everywhere
            else _each_its_share([group for group, _ in scored], shares or {}, remove_frac, step)
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
    return _compared(module, pruned, Removal(heads=heads, channels=tuple(channels)), stay)


def _no_gradients(importance: str) -> Fault:
    return Fault(
        what=f"The importance {importance!r} looks at gradients of the loss.",
        at="prune.importance",
        got="no gradients",
        expected="gradients on some samples",
        fix="give gradients=edgekd.pruning.importance.gradients_of(module, losses_of), or use l2",
    )


def _compared(
    module: nn.Module, pruned: nn.Module, removed: Removal, stay: Sequence[Untouched]
) -> Pruned:
    before, after = widths(module), widths(pruned)
    changed = {name: (before[name], after[name]) for name in after if before[name] != after[name]}
    told = tuple(each for each in stay if each.reason not in (OUTPUT, HEADS))
    return Pruned(pruned, removed, changed, told)


def _each_its_share(
    groups: Sequence[Group], shares: Mapping[str, float], remove_frac: float, round_to: int
) -> list[int]:
    """How many channels each part of each group keeps, each group losing its own share.

    What rounding takes from one group more, the next loses less: all together lose their share.
    """
    owed, counts = 0.0, []
    for group in groups:
        share = shares.get(group.root, remove_frac)
        count = group.kept(share - owed if share else 0.0, round_to)
        counts.append(count)
        half = round_to / (2 * group.width)
        owed = min(half, max(-half, 1 - share + owed - count / group.width)) if share else owed
    return counts


def _ranked(scored: Sequence[tuple[Group, Tensor]], remove_frac: float, round_to: int) -> list[int]:
    """How many channels each part of each group keeps, all channels ranked together."""
    if not scored:
        return []
    scores = [group.by_part(found) for group, found in scored]
    together = torch.cat(scores)
    gone = torch.zeros(len(together))
    # Of equal channels, those that come first go: as many as are asked for, and no more.
    gone[together.argsort(stable=True)[: round(remove_frac * len(together))]] = 1.0
    kept = []
    for (group, _), ours in zip(scored, gone.split([len(each) for each in scores]), strict=True):
        share = min(float(ours.mean()), 1 - LEAST_KEPT)
        kept.append(group.kept(share, round_to))
    return kept


def _without_heads(
    module: nn.Module,
    example: Mapping[str, Tensor],
    remove_frac: float,
    stay: Sequence[Untouched],
    importance: str,
    gradients: Mapping[str, Tensor] | None,
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The heads that went out of `module`, by attention module."""
    whole = {each.layer for each in stay if each.reason == HEADS}
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
    """A copy of `module` without what `removed` names, in eval mode on the CPU.

    Raises:
        RecipeError: the module is not one that this was removed from.
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
