"""Removes whole blocks (depth pruning).

A block can be removed if its output has the shape of its input, best if it has a skip connection.

Source: Men et al. 2024, arXiv:2403.03853 (ShortGPT), for the removal of whole layers by the effect
on the network; Veit et al. 2016, arXiv:1605.06431, for residual networks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from edgekd.errors import Fault, RecipeError, listed, nearest
from edgekd.network.network import call


def blocks_of(module: nn.Module, path: str, at: str, whose: str = "network") -> nn.Module:
    """The list of blocks at the module path `path`.

    Raises:
        RecipeError: there is no such list, or it has fewer than two blocks.
    """
    known: dict[str, nn.Module] = dict(module.named_modules())
    lists = [
        name
        for name, entry in known.items()
        if isinstance(entry, nn.ModuleList | nn.Sequential) and len(entry) > 1
    ]
    if path in lists:
        return known[path]
    close = nearest(path, lists)
    raise RecipeError(
        Fault(
            what=f"The {whose} has no list of blocks {path!r}.",
            at=at,
            got=repr(path) + (" (not a list)" if path in known and path else ""),
            expected=listed(lists) if lists else "a ModuleList or Sequential; it has none",
            fix=f"did you mean {close!r}?" if close else "name one of these lists",
        )
    )


def drop_blocks(blocks: nn.Module, names: Collection[str]) -> None:
    """Removes the blocks with these names from a list and renumbers the others."""
    kept = [(name, block) for name, block in blocks._modules.items() if name not in names]
    numbered = all(name.isdecimal() for name, _ in kept)
    blocks._modules.clear()
    for number, (name, block) in enumerate(kept):
        blocks._modules[str(number) if numbered else name] = block


def least_block(
    module: nn.Module,
    path: str,
    example: Mapping[str, Tensor],
    loss_of: Callable[[nn.Module], float],
) -> tuple[str, nn.Module, float] | None:
    """The block whose removal gives the lowest loss: its name, the network without it, the loss.

    None if no block can be removed: the network fails without it, or its outputs change in shape.
    """
    with torch.no_grad():
        shapes = {name: value.shape for name, value in call(module, example).items()}
    found: tuple[str, nn.Module, float] | None = None
    names = list(module.get_submodule(path)._modules)
    for name in names if len(names) > 1 else ():
        shorter = copy.deepcopy(module)
        drop_blocks(shorter.get_submodule(path), [name])
        try:
            with torch.no_grad():
                outputs = call(shorter, example)
        except (RuntimeError, ValueError, IndexError, TypeError):
            continue
        if {key: value.shape for key, value in outputs.items()} != shapes:
            continue
        loss = loss_of(shorter)
        if found is None or loss < found[2]:
            found = (name, shorter, loss)
    return found
