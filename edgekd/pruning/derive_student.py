"""Derives a student from its teacher: fewer blocks, narrower layers, the teacher's weights."""

from __future__ import annotations

import copy

from torch import nn

from edgekd.errors import Fault, RecipeError
from edgekd.network.network import Network, as_network
from edgekd.pruning.blocks import blocks_of, drop_blocks
from edgekd.pruning.structure import ChannelOptions, prune_channels
from edgekd.recipe.schema import Student

ROUND_TO = 8
"""Kept channels are a multiple of this: runtimes compute on vectors of 8 or 16."""


def derived(teacher: Network, student: Student) -> Network:
    """The student that is derived from `teacher`, with the weights that are kept.

    Raises:
        RecipeError: there is no such list of blocks, or the network does not run without some.
        MissingPackageError: torch-pruning, which narrows layers, is not installed.
    """
    module = copy.deepcopy(teacher.module)
    if student.blocks is not None:
        keep_every(module, student.blocks, student.every)
    if student.width is not None:
        module = _narrowed(module, teacher, student.width)
    lineage = {
        **teacher.lineage,
        "derived": {"blocks": student.blocks, "every": student.every, "width": student.width},
    }
    return as_network(module, teacher.example, lineage, student.dynamic_dims)


def _narrowed(module: nn.Module, teacher: Network, width: float) -> nn.Module:
    """`module` with this share of its channels, as far as they can be removed."""
    options = ChannelOptions(round_to=ROUND_TO)
    pruned = prune_channels(module, teacher.example, 1.0 - width, options)
    if not pruned.widths:
        stay = "; ".join(f"{entry.layer}: {entry.reason}" for entry in pruned.untouched[:4])
        raise RecipeError(
            Fault(
                what="No layer of the teacher can be made narrower.",
                at="student.width",
                got=f"{width:g}" + (f"; not pruned: {stay}" if stay else ""),
                expected=f"layers of over {ROUND_TO} channels whose dependencies can be traced",
                fix="derive the student by blocks, or name its own module in student.load",
            )
        )
    return pruned.module


def keep_every(module: nn.Module, blocks: str, every: int) -> None:
    """Keeps every n-th block of the list at the module path `blocks`, the first one included.

    Raises:
        RecipeError: there is no such list, or it has fewer than two blocks.

    Source: Sanh et al. 2019, arXiv:1910.01108, section 3, "Student initialization".
    """
    found = blocks_of(module, blocks, "student.blocks", "teacher")
    drop_blocks(found, [name for number, name in enumerate(found._modules) if number % every])
