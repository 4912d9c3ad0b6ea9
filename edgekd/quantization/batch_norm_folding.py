"""Batch norms folded into the layers before them, as every converter does."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import nn
from torch.fx import Node

from edgekd.artifacts.quantizer_rules import WEIGHTED
from edgekd.network.network import Network
from edgekd.quantization.quantizer_placement import operator
from edgekd.quantization.simulated_network import OURS, program_of


def fold_batch_norms(network: Network) -> Network:
    """`network` with each batch norm in the convolution or linear layer that alone feeds it.

    Norms that follow something else, and layers that are called more than once, stay. The outputs
    are the same but for rounding.
    """
    nodes = list(program_of(network)[0].graph.nodes)
    module = copy.deepcopy(network.module).eval().cpu()
    calls = Counter(
        each.target
        for node in nodes
        for each in node.args
        if isinstance(each, Node) and each.op == "get_attr"
    )
    for node in nodes:
        layer = node.args[0] if operator(node) == "batch_norm" else None
        if not isinstance(layer, Node) or operator(layer) not in WEIGHTED or len(layer.users) > 1:
            continue
        weight, mean = layer.args[1], node.args[3]
        if all(isinstance(each, Node) and calls[each.target] == 1 for each in (weight, mean)):
            _fold(module, _owner(weight), _owner(mean))
    return network.with_module(module)


def _owner(node: object) -> str:
    """The path, in the network's module, of the layer whose tensor `node` gives."""
    assert isinstance(node, Node)
    return str(node.target).removeprefix(OURS).rpartition(".")[0]


def _fold(module: nn.Module, layer_path: str, norm_path: str) -> None:
    layer, norm = module.get_submodule(layer_path), module.get_submodule(norm_path)
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
        return
    fusion = torch.nn.utils.fusion
    made: nn.Module
    if isinstance(layer, nn.Linear):
        made = fusion.fuse_linear_bn_eval(layer, norm)
    elif isinstance(layer, nn.modules.conv._ConvNd):
        transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
        made = fusion.fuse_conv_bn_eval(layer, norm, transpose=transposed)
    else:
        return
    for path, replacement in ((layer_path, made), (norm_path, nn.Identity())):
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, replacement)
