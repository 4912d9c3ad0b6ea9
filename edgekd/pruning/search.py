"""How much to remove, so that what is left is a given share of what there was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from edgekd.errors import Fault, RecipeError
from edgekd.pruning.structure import Pruned, Untouched, prune_channels, untouchable

TRIALS = 12
"""Shares of channels that are tried: a bisection to 1 / 4,096 of them."""

MOST_REMOVED = 0.95
"""Of a layer's channels; with less the layer is no longer one."""


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        pruned: the widest network that is no larger than asked for.
        kept_frac: what it measures, as a share of the whole network.
        trials: the shares of channels removed, each with what was left then.
    """

    pruned: Pruned
    kept_frac: float
    trials: tuple[tuple[float, float], ...]


def prune_to(
    module: nn.Module,
    example: Mapping[str, Tensor],
    keep_frac: float,
    measure: Callable[[nn.Module], float],
    *,
    importance: str = "l2",
    everywhere: bool = False,
    round_to: int | None = None,
    ignore: Sequence[str] = (),
    what: str = "of the network",
) -> Found:
    """`module` without as few channels as leave it at most `keep_frac` of what it measures.

    Args:
        measure: of a network, smaller when less of it is left: MACs, parameters, a latency.
        what: is measured, for messages.
        importance, everywhere, round_to, ignore: see `prune_channels`.

    Raises:
        RecipeError: `keep_frac` is not in (0, 1], or no share of the channels leaves so little.
    """
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
    stay = untouchable(module, example, ignore)
    whole = measure(module)
    trials: list[tuple[float, float]] = []
    best: tuple[Pruned, float] | None = None

    def tried(remove_frac: float) -> float:
        nonlocal best
        pruned = prune_channels(
            module,
            example,
            remove_frac,
            importance=importance,
            everywhere=everywhere,
            round_to=round_to,
            untouched=stay,
        )
        left = measure(pruned.module) / whole
        trials.append((remove_frac, left))
        if left <= keep_frac and (best is None or left > best[1]):
            best = (pruned, left)
        return left

    if tried(0.0) > keep_frac and tried(MOST_REMOVED) <= keep_frac:
        low, high = 0.0, MOST_REMOVED  # Without `low` too much is left, without `high` not.
        while len(trials) < TRIALS:
            middle = (low + high) / 2
            low, high = (low, middle) if tried(middle) <= keep_frac else (middle, high)
    if best is None:
        raise RecipeError(_unreachable(keep_frac, trials, stay, what))
    return Found(best[0], best[1], tuple(trials))


def _unreachable(
    keep_frac: float,
    trials: Sequence[tuple[float, float]],
    stay: Sequence[Untouched],
    what: str,
) -> Fault:
    remove, left = min(trials, key=lambda trial: trial[1])
    held = ", ".join(f"{entry.layer} ({entry.reason})" for entry in stay[:4])
    return Fault(
        what=f"So little {what} cannot be kept by removing channels.",
        at="prune.keep",
        got=f"{keep_frac:g}; {left:.3f} is left without {remove:.0%} of the channels",
        expected=f"at least {left:.3f}" + (f"; what stays: {held}" if held else ""),
        fix=f"set keep = {left + 0.01:.2f}, or begin with a smaller student",
    )
