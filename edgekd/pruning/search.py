"""How much to remove, so that what is left is a given share of what there was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from edgekd.errors import Fault, RecipeError
from edgekd.pruning.blocks import least_block
from edgekd.pruning.dependencies import Untouched, widths
from edgekd.pruning.structure import Pruned, Removal

TRIALS = 12
"""Candidates that are tried: a bisection to 1 / 1,024 of the channels."""

MOST_REMOVED = 0.95
"""Of a layer's channels; with less the layer is no longer one."""

CLOSE_FRAC = 0.01
"""A candidate this little under what is asked for ends the search."""


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        pruned: of the candidates, the largest that is no larger than asked for.
        kept_frac: what it measures, as a share of the whole network.
        trials: how much was removed of each candidate (0 to 1), and the share that was left.
    """

    pruned: Pruned
    kept_frac: float
    trials: tuple[tuple[float, float], ...]


def check_keep(keep_frac: float) -> None:
    """Raises what is to be said of a share that is none."""
    if not 0 < keep_frac <= 1:
        raise RecipeError(
            Fault(
                what="Nothing, or more than all, would be kept.",
                at="prune.keep",
                got=str(keep_frac),
                expected="over 0, and at most 1",
                fix="set keep = 0.5 for half",
            )
        )


def prune_to(
    keep_frac: float,
    prune: Callable[[float], Pruned],
    measure: Callable[[nn.Module], float],
    *,
    whole: float,
    trials: int = TRIALS,
    close_frac: float = CLOSE_FRAC,
    what: str = "of the network",
    on_trial: Callable[[int, float], None] = lambda number, left: None,  # noqa: ARG005
) -> Found:
    """The candidate from which least is removed while at most `keep_frac` of `whole` is left.

    Args:
        prune: the network without a share (0 to 1) of what can be removed.
        measure: of a network, smaller when less of it is left: MACs, parameters, a latency.
        whole: what the network measures from which nothing has been removed.
        trials: candidates at most.
        close_frac: the search ends with a candidate this little under `keep_frac`, a share of it.
        what: is measured, for messages.
        on_trial: called with the number of each candidate and the share that it keeps.

    Raises:
        RecipeError: `keep_frac` is not in (0, 1], or no candidate is so small: the smallest is
            told, and what stays.
    """
    check_keep(keep_frac)
    tried: list[tuple[float, float]] = []
    best: tuple[Pruned, float] | None = None
    last: Pruned | None = None

    def left_without(remove_frac: float) -> float:
        nonlocal best, last
        last = prune(remove_frac)
        left = measure(last.module) / whole
        tried.append((remove_frac, left))
        on_trial(len(tried), left)
        if left <= keep_frac and (best is None or left > best[1]):
            best = (last, left)
        return left

    if left_without(0.0) > keep_frac and left_without(MOST_REMOVED) <= keep_frac:
        low, high = 0.0, MOST_REMOVED  # Without `low` too much is left, without `high` not.
        while len(tried) < trials and best is not None and best[1] < (1 - close_frac) * keep_frac:
            middle = (low + high) / 2
            low, high = (low, middle) if left_without(middle) <= keep_frac else (middle, high)
    if best is None:
        assert last is not None
        least = min(left for _, left in tried)
        raise RecipeError(unreachable(keep_frac, least, last.untouched, what))
    return Found(best[0], best[1], tuple(tried))


def drop_to(
    module: nn.Module,
    path: str,
    example: Mapping[str, Tensor],
    keep_frac: float,
    measure: Callable[[nn.Module], float],
    loss_of: Callable[[nn.Module], float],
    *,
    whole: float,
    what: str = "of the network",
    on_trial: Callable[[int, float], None] = lambda number, left: None,  # noqa: ARG005
) -> Found:
    """`module` without as few blocks of the list at `path` as leave at most `keep_frac` of `whole`.

    One by one goes the block without which the loss is least.

    Args:
        loss_of: a network's, on some samples; lower is better.
        measure, whole, what, tell: see `prune_to`.

    Raises:
        RecipeError: `keep_frac` is not in (0, 1], or no more blocks can go.
    """
    check_keep(keep_frac)
    shorter, left = module, measure(module) / whole
    gone: list[str] = []
    names = list(module.get_submodule(path)._modules)
    tried = [(0.0, left)]
    count = len(names)
    while left > keep_frac:
        found = least_block(shorter, path, example, loss_of)
        if found is None:
            alone = len(names) == 1
            why = "the last of its list" if alone else "the network does not run without it"
            held = [Untouched(f"{path}.{name}", why) for name in names]
            raise RecipeError(unreachable(keep_frac, left, held, what, ways=""))
        place = list(shorter.get_submodule(path)._modules).index(found[0])
        gone.append(names.pop(place))
        shorter = found[1]
        left = measure(shorter) / whole
        tried.append((len(gone) / count, left))
        on_trial(len(tried), left)
    removed = Removal(blocks=((path, tuple(gone)),) if gone else ())
    return Found(Pruned(shorter, removed, {}, ()), left, tuple(tried))


def unreachable(
    keep_frac: float,
    left: float,
    stay: Sequence[Untouched],
    what: str,
    ways: str = "round_to = 1, ",
) -> Fault:
    """What is to be said where of the smallest candidate `left` is left, and `stay` stays."""
    held = [f"{entry.layer} ({entry.reason})" for entry in stay[:4]]
    less = left + 0.01
    fix = f"set keep = {less:.2f}, {ways}or begin with a smaller student"
    if less > 1:
        fix = f'set {ways}ignore fewer layers, or set prune.method = "unstructured"'
    return Fault(
        what=f"So little {what} cannot be kept.",
        at="prune.keep",
        got=f"{keep_frac:g}; {left:.3f} is left of the smallest candidate",
        expected=f"at least {left:.3f}" + (f"; what stays: {', '.join(held)}" if held else ""),
        fix=fix,
    )


def changed_widths(before: nn.Module, after: nn.Module) -> dict[str, tuple[int, int]]:
    """By layer of both, its channels before and after, where the two differ."""
    wide, narrow = widths(before), widths(after)
    return {
        name: (wide[name], narrow[name])
        for name in narrow
        if name in wide and wide[name] != narrow[name]
    }
