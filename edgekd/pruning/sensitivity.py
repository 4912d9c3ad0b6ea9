"""How much a network suffers from less of each layer, and the layer-wise shares that follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from edgekd.pruning.dependencies import Untouched, graph_of, groups_of, quiet, untouchable
from edgekd.pruning.structure import prune_channels
from edgekd.system.progress import Progress, no_progress

SHARES = (0.25, 0.5, 0.75)
"""Shares of a layer's channels that are removed, one layer at a time."""

MOST = 0.95
"""Of a layer's channels, however little they matter."""


@dataclass(frozen=True)
class Sensitivity:
    """What removing channels of one layer, with all that depends on them, costs.

    Attributes:
        layer: the module path.
        losses: shares removed (0 to 1, from 0) and the loss then.
        metrics: the same shares, and the task's metric then.
    """

    layer: str
    losses: tuple[tuple[float, float], ...]
    metrics: tuple[tuple[float, float], ...]

    def share_at(self, loss: float) -> float:
        """The largest share that can be removed with at most this loss, between those scanned."""
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
    *,
    importance: str = "l2",
    round_to: int | None = None,
    untouched: Sequence[Untouched] | None = None,
    gradients: Mapping[str, Tensor] | None = None,
    progress: Progress = no_progress,
) -> list[Sensitivity]:
    """The loss against the share that is removed, for each group of channels of `module` alone.

    Args:
        judge: a network's loss and metric on samples that are not reported on.
        progress: called with each layer, its number from 1 and the number of layers.
        importance, round_to, untouched, gradients: see `prune_channels`.

    Source: Li et al. 2017, arXiv:1608.08710, section 3.2, figure 2(b).
    """
    stay = list(untouchable(module, example) if untouched is None else untouched)
    with quiet():
        graph = graph_of(module, example)
        roots = [group.root for group in groups_of(module, graph, [each.layer for each in stay])]
    whole = judge(module)
    found = []
    for number, root in enumerate(roots):
        progress("prune", f"scanning {root}", number + 1, len(roots))
        found_at = [(0.0, *whole)]
        for share in SHARES:
            pruned = prune_channels(
                module,
                example,
                0.0,
                importance=importance,
                shares={root: share},
                round_to=round_to,
                untouched=stay,
                gradients=gradients,
            )
            found_at.append((share, *judge(pruned.module)))
        losses = tuple((share, loss) for share, loss, _ in found_at)
        metrics = tuple((share, metric) for share, _, metric in found_at)
        found.append(Sensitivity(root, losses, metrics))
    return found


def shares_at(scanned: Sequence[Sensitivity], cost_frac: float) -> dict[str, float]:
    """By layer, the share that can be removed where each layer alone may cost so much.

    Args:
        cost_frac: 0 to 1, of the way from the whole network's loss to the worst one scanned; the
            way is geometric, since most layers cost little until they cost much.
    """
    if not scanned or cost_frac <= 0:
        return {entry.layer: 0.0 for entry in scanned}
    whole = scanned[0].losses[0][1]
    rises = [loss - whole for entry in scanned for _, loss in entry.losses if loss > whole]
    if not rises:
        return {entry.layer: min(MOST, cost_frac) for entry in scanned}
    least, most = min(rises), max(rises)
    allowed = whole + least * (most / least) ** cost_frac
    # Below the least rise that was scanned, shares grow from 0 in step.
    slow = min(1.0, cost_frac * 10)
    return {entry.layer: slow * entry.share_at(allowed) for entry in scanned}
