"""Decomposes composite operators into those that a runtime quantizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekd.quantization.quantizer_placement import operator

aten = torch.ops.aten


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001  none in eval mode
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Attention as the matrix products and the softmax that exporters write for it."""
    if is_causal or enable_gqa:
        return NotImplemented
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * factor) @ key.transpose(-2, -1)
    if attn_mask is not None:
        scores = scores + attn_mask
    return torch.softmax(scores, -1) @ value


ATTENTION = {aten.scaled_dot_product_attention.default: attention}


def decompose_composites(module: GraphModule, names: frozenset[str]) -> None:
    """Replaces the composite operators `names` of `module` by simple ones, where they are known."""
    graph = module.graph
    for node in list(graph.nodes):
        decompose = _DECOMPOSITIONS.get(operator(node)) if operator(node) in names else None
        if decompose is None:
            continue

        def add(target: Any, *args: Any, before: Node = node) -> Node:
            added = graph.call_function(target, args)
            added.meta["val"] = before.meta["val"]
            return added

        with graph.inserting_before(node):
            last = decompose(node, add)
        if last is not None:
            node.replace_all_uses_with(last)
            graph.erase_node(node)
    module.recompile()


Add = Callable[..., Node]


def _hardswish(node: Node, add: Add) -> Node:
    return add(aten.mul.Tensor, node.args[0], add(aten.hardsigmoid.default, node.args[0]))


def _silu(node: Node, add: Add) -> Node:
    return add(aten.mul.Tensor, node.args[0], add(aten.sigmoid.default, node.args[0]))


def _hardsigmoid(node: Node, add: Add) -> Node:
    shifted = add(aten.hardtanh.default, add(aten.add.Tensor, node.args[0], 3.0), 0.0, 6.0)
    return add(aten.mul.Tensor, shifted, 1 / 6)


def _linear(node: Node, add: Add) -> Node | None:
    """With more than two axes it is a matrix product and a sum; with two it is one operator."""
    if len(node.args) < 3 or node.args[2] is None or node.meta["val"].ndim == 2:
        return None
    return add(aten.add.Tensor, add(aten.linear.default, *node.args[:2]), node.args[2])


_DECOMPOSITIONS: dict[str, Callable[[Node, Add], Node | None]] = {
    "hardswish": _hardswish,
    "silu": _silu,
    "hardsigmoid": _hardsigmoid,
    "linear": _linear,
}
