"""Searches how much to remove, so that a given share of the network is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from edgekd.errors import Fault, RecipeError
from edgekd.pruning.blocks import least_block
from edgekd.pruning.dependencies import Untouched, widths
from edgekd.pruning.structure import Pruned, Removal

TRIALS = 12
"""The number of candidates: a bisection to 1 / 1,024 of the channels."""

MOST_REMOVED = 0.95
"""The largest share of a layer's channels that is removed: something of it must be left."""

CLOSE_FRAC = 0.01
"""The search ends with a candidate that is smaller than requested by at most this share."""


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        pruned: the largest candidate that is not larger than requested.
        kept_frac: its size or latency, as a share of the whole network's.
        trials: the share removed from each candidate (0-1), and the share that was left.
    """

    pruned: Pruned
    kept_frac: float
    trials: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Measure:
    """What pruning reduces: a size or a latency, relative to that of the unpruned network.

    Attributes:
        of: the size or latency of a module; smaller if less of the network is left.
        whole: the value of the unpruned network.
        what: what is measured, for messages.
    """

    of: Callable[[nn.Module], float]
    whole: float
    what: str = "of the network"

    def share(self, module: nn.Module) -> float:
        """The share of the unpruned network that is left in `module`."""
        return self.of(module) / self.whole


def check_keep(keep_frac: float) -> None:
    """Raises a RecipeError if `keep_frac` is not in (0, 1]."""
    if not 0 < keep_frac <= 1:
        raise RecipeError(
            Fault(
                what="`keep` must be in (0, 1].",
                at="prune.keep",
                got=str(keep_frac),
                expected="a number above 0 and at most 1",
                fix="set keep = 0.5 for half",
            )
        )


def prune_to(
    keep_frac: float,
    prune: Callable[[float], Pruned],
    measure: Measure,
    *,
    trials: int = TRIALS,
    close_frac: float = CLOSE_FRAC,
    on_trial: Callable[[int, float], None] = lambda number, left: None,  # noqa: ARG005
) -> Found:
    """The largest candidate that keeps at most `keep_frac` of the network.

    Args:
        prune: returns the network without a share (0-1) of what can be removed.
        trials: the largest number of candidates.
        close_frac: the search ends with a candidate smaller than `keep_frac` by at most this share.
        on_trial: called with the number of each candidate and the share that it keeps.

    Raises:
        RecipeError: `keep_frac` is not in (0, 1], or no candidate is so small; the message names
            the smallest one and the layers that cannot be pruned.
    """
    check_keep(keep_frac)
    tried: list[tuple[float, float]] = []
    best: tuple[Pruned, float] | None = None
    last: Pruned | None = None

    def left_without(remove_frac: float) -> float:
        nonlocal best, last
        last = prune(remove_frac)
        left = measure.share(last.module)
        tried.append((remove_frac, left))
        on_trial(len(tried), left)
        if left <= keep_frac and (best is None or left > best[1]):
            best = (last, left)
        return left

    if left_without(0.0) > keep_frac and left_without(MOST_REMOVED) <= keep_frac:
        low, high = 0.0, MOST_REMOVED  # Removing `low` leaves too much, removing `high` does not.
        while len(tried) < trials and best is not None and best[1] < (1 - close_frac) * keep_frac:
            middle = (low + high) / 2
            low, high = (low, middle) if left_without(middle) <= keep_frac else (middle, high)
    if best is None:
        assert last is not None
        least = min(left for _, left in tried)
        raise RecipeError(unreachable(keep_frac, least, last.untouched, measure.what))
    return Found(best[0], best[1], tuple(tried))


def drop_to(
    module: nn.Module,
    path: str,
    example: Mapping[str, Tensor],
    keep_frac: float,
    measure: Measure,
    loss_of: Callable[[nn.Module], float],
    *,
    on_trial: Callable[[int, float], None] = lambda number, left: None,  # noqa: ARG005
) -> Found:
    """`module` without blocks of the list at `path`, one at a time until `keep_frac` is left.

    Each step removes the block whose removal gives the lowest loss.

    Args:
        loss_of: the loss of a network on some samples.
        measure, on_trial: see `prune_to`.

    Raises:
        RecipeError: `keep_frac` is not in (0, 1], or no more blocks can be removed.
    """
    check_keep(keep_frac)
    shorter, left = module, measure.share(module)
    gone: list[str] = []
    names = list(module.get_submodule(path)._modules)
    tried = [(0.0, left)]
    count = len(names)
    while left > keep_frac:
        found = least_block(shorter, path, example, loss_of)
        if found is None:
            alone = len(names) == 1
            why = "the last of its list" if alone else "the network does not run without it"
            kept = [Untouched(f"{path}.{name}", why) for name in names]
            raise RecipeError(unreachable(keep_frac, left, kept, measure.what, options=""))
        index = list(shorter.get_submodule(path)._modules).index(found[0])
        gone.append(names.pop(index))
        shorter = found[1]
        left = measure.share(shorter)
        tried.append((len(gone) / count, left))
        on_trial(len(tried), left)
    removed = Removal(blocks=((path, tuple(gone)),) if gone else ())
    return Found(Pruned(shorter, removed, {}, ()), left, tuple(tried))


def unreachable(
    keep_frac: float,
    left: float,
    untouched: Sequence[Untouched],
    what: str,
    options: str = "round_to = 1, ",
) -> Fault:
    """The fault of a `keep` below the share that the smallest candidate keeps.

    Args:
        left: the share that the smallest candidate keeps.
        untouched: the layers and blocks that cannot be pruned.
        options: keys of [prune] that allow a smaller network.
    """
    kept = [f"{entry.layer} ({entry.reason})" for entry in untouched[:4]]
    possible = left + 0.01
    fix = f"set keep = {possible:.2f}, {options}or begin with a smaller student"
    if possible > 1:
        fix = f'set {options}ignore fewer layers, or set prune.method = "unstructured"'
    return Fault(
        what=f"Pruning cannot keep as little as {keep_frac:g} {what}.",
        at="prune.keep",
        got=f"{keep_frac:g}; the smallest candidate keeps {left:.3f}",
        expected=f"at least {left:.3f}" + (f"; not pruned: {', '.join(kept)}" if kept else ""),
        fix=fix,
    )


def changed_widths(before: nn.Module, after: nn.Module) -> dict[str, tuple[int, int]]:
    """The channels before and after of each layer whose width changed, by layer."""
    wide, narrow = widths(before), widths(after)
    return {
        name: (wide[name], narrow[name])
        for name in narrow
        if name in wide and wide[name] != narrow[name]
    }
