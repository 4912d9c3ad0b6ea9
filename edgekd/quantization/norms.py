"""Batch norms folded into the layers before them, which every converter does anyway."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.fx import Node

from edgekd.network import Network
from edgekd.quantization.places import CONVOLUTIONS, TRANSPOSED, operator
from edgekd.quantization.simulation import program_of

aten = torch.ops.aten


def fold_norms(network: Network) -> Network:
    """`network` with each batch norm in the convolution or linear layer that alone feeds it.

    Norms that follow something else, or layers that are called more than once, stay. The outputs
    are the same but for rounding.
    """
    program, _ = program_of(network)
    module = copy.deepcopy(network.module).eval().cpu()
    calls: dict[str, int] = {}
    for node in program.graph.nodes:
        for each in node.args:
            if isinstance(each, Node) and each.op == "get_attr":
                calls[str(each.target)] = calls.get(str(each.target), 0) + 1
    for node in program.graph.nodes:
        if operator(node) != "batch_norm" or not isinstance(node.args[0], Node):
            continue
        before = node.args[0]
        if operator(before) not in CONVOLUTIONS | TRANSPOSED | {"linear"} or len(before.users) > 1:
            continue
        weight, mean = before.args[1], node.args[3]
        if not isinstance(weight, Node) or not isinstance(mean, Node):
            continue
        if calls[str(weight.target)] > 1 or calls[str(mean.target)] > 1:
            continue
        _fold(module, _owner(weight), _owner(mean))
    return network.with_module(module, norms="folded")


def _owner(node: Node) -> str:
    """The path in the network's module of the layer whose tensor `node` gives."""
    return str(node.target).removeprefix("module.").rpartition(".")[0]


def _fold(module: nn.Module, layer_path: str, norm_path: str) -> None:
    layer, norm = module.get_submodule(layer_path), module.get_submodule(norm_path)
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.running_mean is None:
        return
    fold = torch.nn.utils.fusion
    if isinstance(layer, nn.Linear):
        made: nn.Module = fold.fuse_linear_bn_eval(layer, norm)
    else:
        transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
        made = fold.fuse_conv_bn_eval(layer, norm, transpose=transposed)
    _put(module, layer_path, made)
    _put(module, norm_path, nn.Identity())


def _put(module: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, layer)
