"""Removes whole heads from attention.

A single channel of a head cannot be removed: heads would differ in width, or softmax in scale. A
whole head can be removed if the module stores its number of heads and splits its channels by it.

Source: Michel, Levy, Neubig 2019, arXiv:1905.10650.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.pruning.importance import weight_importance

COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads", "nhead")
"""The names that modules give their number of heads."""

PROJECTIONS = (
    ("qkv",),
    ("to_qkv",),
    ("in_proj",),
    ("c_attn",),
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("to_q", "to_k", "to_v"),
    ("q", "k", "v"),
    ("wq", "wk", "wv"),
)
"""The names of the layers that compute queries, keys and values: timm, Transformers, diffusers."""

WIDTHS = ("all_head_size", "inner_dim", "attn_dim", "attention_dim")
"""The names of the width of all heads together."""


@dataclass(frozen=True)
class Heads:
    """The heads of one attention module.

    Attributes:
        module: its path.
        count: the number of heads.
        projections: the paths of the layers that compute queries, keys and values.
        out: the path of the layer that reads all heads.
    """

    module: str
    count: int
    projections: tuple[str, ...]
    out: str


def heads_of(module: nn.Module, graph: Any) -> list[Heads]:
    """The attention modules whose layers have one of the known names.

    Args:
        graph: Torch-Pruning's dependency graph of `module`.
    """
    paths = {layer: path for path, layer in module.named_modules()}
    found = []
    for path, part in module.named_modules():
        count = next((getattr(part, name, None) for name in COUNTS if hasattr(part, name)), None)
        if not isinstance(count, int) or count < 2 or isinstance(part, nn.MultiheadAttention):
            continue
        for names in PROJECTIONS:
            layers = [
                layer for name in names if isinstance(layer := getattr(part, name, None), nn.Linear)
            ]
            if len(layers) < len(names):
                continue
            parts = 3 if len(names) == 1 else 1
            width = layers[0].out_features // parts
            if any(layer.out_features != parts * width for layer in layers) or width % count:
                continue
            out = _reader(layers[-1], width, graph)
            if out is not None:
                prefix = f"{path}." if path else ""
                inputs = tuple(prefix + name for name in names)
                found.append(Heads(path, count, inputs, paths[out]))
            break
    return found


def _reader(layer: nn.Module, width: int, graph: Any) -> nn.Linear | None:
    """The only linear layer that reads the outputs of `layer`, if it is `width` wide."""
    nodes, seen, found = [graph.module2node[layer]], set(), []
    while nodes:
        node = nodes.pop()
        for reader in node.outputs:
            if id(reader) in seen:
                continue
            seen.add(id(reader))
            if isinstance(reader.module, nn.Linear):
                found.append(reader.module)
            else:
                nodes.append(reader)
    return found[0] if len(found) == 1 and found[0].in_features == width else None


def remove_heads(module: nn.Module, heads: Heads, numbers: Sequence[int]) -> None:
    """Removes the heads with these indices from `module`."""
    attention, out = module.get_submodule(heads.module), module.get_submodule(heads.out)
    assert isinstance(out, nn.Linear)
    kept = [number for number in range(heads.count) if number not in set(numbers)]
    width = out.in_features
    size = width // heads.count
    columns = torch.cat([torch.arange(n * size, (n + 1) * size) for n in kept])
    for path in heads.projections:
        layer = module.get_submodule(path)
        assert isinstance(layer, nn.Linear)
        parts = layer.out_features // width
        _keep_rows(layer, torch.cat([columns + part * width for part in range(parts)]))
    out.weight = _part(out.weight, columns, 1)
    out.in_features = len(columns)
    for name in COUNTS:
        if isinstance(getattr(attention, name, None), int):
            setattr(attention, name, len(kept))
    for name in WIDTHS:
        if getattr(attention, name, None) == width:
            setattr(attention, name, len(columns))


def _keep_rows(layer: nn.Linear, rows: Tensor) -> None:
    layer.weight = _part(layer.weight, rows, 0)
    if layer.bias is not None:
        layer.bias = _part(layer.bias, rows, 0)
    layer.out_features = len(rows)


def _part(whole: Tensor, ids: Tensor, axis: int) -> nn.Parameter:
    """These rows or columns of a parameter and of its gradient."""
    part = nn.Parameter(whole.detach().index_select(axis, ids).clone())
    if whole.grad is not None:
        part.grad = whole.grad.index_select(axis, ids)
    return part


def masked_heads(module: nn.Module, heads: Heads, numbers: Sequence[int]) -> nn.Module:
    """A copy of `module` in which the outputs of these heads have no effect."""
    masked = copy.deepcopy(module)
    out = masked.get_submodule(heads.out)
    assert isinstance(out, nn.Linear)
    size = out.in_features // heads.count
    with torch.no_grad():
        for number in numbers:
            out.weight[:, number * size : (number + 1) * size] = 0.0
    return masked


def least_heads(
    module: nn.Module,
    heads: Heads,
    count: int,
    importance: str,
    gradients: Mapping[str, Tensor] | None,
) -> list[int]:
    """The `count` least important heads, by the sum over the weights that compute or read them."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.zeros(heads.count)
    for path in (*heads.projections, heads.out):
        layer = module.get_submodule(path)
        assert isinstance(layer, nn.Linear)
        gradient = None if gradients is None else gradients.get(f"{path}.weight")
        values = weight_importance(importance, layer.weight.detach().cpu(), gradient, generator)
        if path == heads.out:
            scores += values.sum(0).view(heads.count, -1).sum(1)
        else:
            parts = 3 if len(heads.projections) == 1 else 1
            scores += values.sum(1).view(parts, heads.count, -1).sum((0, 2))
    return sorted(scores.argsort(stable=True)[:count].tolist())
