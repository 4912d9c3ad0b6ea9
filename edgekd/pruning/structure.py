"""Whole channels removed from a network, with all that depends on them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.errors import Fault, RecipeError
from edgekd.need import need
from edgekd.network import call

ROUND_TO = 8
"""Channels are kept in multiples of this: runtimes compute on vectors of 8 or 16."""


def narrowed(module: nn.Module, example: Mapping[str, Tensor], *, keep_frac: float) -> None:
    """Keeps this share of the channels of every layer of `module`, but of its inputs and outputs.

    The channels with the largest weights of a layer and of all that depends on it are kept, in
    multiples of 8 where there are as many.

    Args:
        example: inputs by name, batch first.

    Raises:
        RecipeError: the dependencies cannot be followed.
        MissingPackageError: torch-pruning is not installed.

    Source: Fang et al. 2023, arXiv:2301.12900: dependency graphs and group importance.
    """
    pruning = need("torch_pruning", extra="prune")
    inputs = {name: tensor.clone() for name, tensor in example.items()}
    try:
        pruner = pruning.pruner.BasePruner(
            module,
            example_inputs=inputs,
            importance=pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=1.0 - keep_frac,
            ignored_layers=output_layers(module, example),
            round_to=ROUND_TO,
            forward_fn=call,
        )
        pruner.step()
        with torch.no_grad():
            call(copy.deepcopy(module).eval(), inputs)
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise RecipeError(
            Fault(
                what="What depends on the channels of the network cannot be followed.",
                at=f"{type(module).__name__}, student.width",
                got=f"{type(error).__name__}: {error}",
                expected="a network that torch-pruning traces",
                fix="derive the student by blocks, or write its module yourself",
            )
        ) from error


def output_layers(module: nn.Module, example: Mapping[str, Tensor]) -> list[nn.Module]:
    """The layers whose channels are those of an output of `module`."""
    pruning = need("torch_pruning", extra="prune")
    graph = pruning.DependencyGraph().build_dependency(
        module, example_inputs=dict(example), forward_fn=call
    )
    found: list[nn.Module] = []
    ends = [node for node in graph.module2node.values() if not node.outputs]
    seen: set[int] = set()
    while ends:
        node: Any = ends.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node.module, nn.Linear | nn.modules.conv._ConvNd | nn.RNNBase):
            found.append(node.module)
        else:
            ends.extend(node.inputs)
    return found
