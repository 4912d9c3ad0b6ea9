"""The loss of a network with fewer channels in one layer, and shares per layer derived from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from edgekd.pruning.dependencies import graph_of, groups_of, quiet, untouchable
from edgekd.pruning.structure import ChannelOptions, prune_channels
from edgekd.system.progress import Progress, no_progress

SHARES = (0.25, 0.5, 0.75)
"""The shares of a layer's channels that are removed, one layer at a time."""

MOST = 0.95
"""The largest share of a layer's channels that is removed."""


@dataclass(frozen=True)
class Sensitivity:
    """The loss and the metric without some channels of one layer, and all that depends on them.

    Attributes:
        layer: the module path.
        losses: pairs of the share removed (0-1, beginning with 0) and the loss.
        metrics: pairs of the same share and the task's metric.
    """

    layer: str
    losses: tuple[tuple[float, float], ...]
    metrics: tuple[tuple[float, float], ...]

    def share_at(self, loss: float) -> float:
        """The largest share that can be removed at this loss, interpolated between scanned ones."""
        reached = 0.0
        for (share, before), (more, after) in zip(self.losses, self.losses[1:], strict=False):
            if before > loss:
                break
            rise = after - before
            reached = more if after <= loss else share + (more - share) * (loss - before) / rise
        if self.losses[-1][1] <= loss and reached == self.losses[-1][0]:
            return MOST
        return min(MOST, reached)


def sensitivity(
    module: nn.Module,
    example: Mapping[str, Tensor],
    judge: Callable[[nn.Module], tuple[float, float]],
    options: ChannelOptions | None = None,
    *,
    progress: Progress = no_progress,
) -> list[Sensitivity]:
    """The loss by the share that is removed, for each group of channels of `module` alone.

    Args:
        judge: returns the loss and the metric of a network on samples that are not reported on.
        progress: called with each layer, its number from 1 and the number of layers.

    Source: Li et al. 2017, arXiv:1608.08710, section 3.2, figure 2(b).
    """
    options = options or ChannelOptions()
    stay = options.untouched
    stay = list(untouchable(module, example) if stay is None else stay)
    with quiet():
        graph = graph_of(module, example)
        roots = [group.root for group in groups_of(module, graph, [each.layer for each in stay])]
    whole = judge(module)
    found = []
    for number, root in enumerate(roots):
        progress("prune", f"scanning {root}", number + 1, len(roots))
        found_at = [(0.0, *whole)]
        for share in SHARES:
            one = replace(options, untouched=stay, shares={root: share}, everywhere=False)
            found_at.append((share, *judge(prune_channels(module, example, 0.0, one).module)))
        losses = tuple((share, loss) for share, loss, _ in found_at)
        metrics = tuple((share, metric) for share, _, metric in found_at)
        found.append(Sensitivity(root, losses, metrics))
    return found


def shares_at(scanned: Sequence[Sensitivity], cost_frac: float) -> dict[str, float]:
    """The share that can be removed from each layer, by layer, if each may raise the loss equally.

    Args:
        cost_frac: the allowed loss (0-1) between that of the unpruned network and the highest one
            scanned, on a geometric scale: most layers raise the loss little at first.
    """
    if not scanned or cost_frac <= 0:
        return {entry.layer: 0.0 for entry in scanned}
    whole = scanned[0].losses[0][1]
    rises = [loss - whole for entry in scanned for _, loss in entry.losses if loss > whole]
    if not rises:
        return {entry.layer: min(MOST, cost_frac) for entry in scanned}
    least, most = min(rises), max(rises)
    allowed = whole + least * (most / least) ** cost_frac
    # Below the smallest rise that was scanned, shares grow linearly from 0.
    slow = min(1.0, cost_frac * 10)
    return {entry.layer: slow * entry.share_at(allowed) for entry in scanned}
