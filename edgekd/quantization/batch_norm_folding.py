"""Folds batch norms into the layers before them, as every converter does."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import nn
from torch.fx import Node

from edgekd.artifacts.quantizer_rules import WEIGHTED
from edgekd.network.network import Network
from edgekd.quantization.quantizer_placement import operator
from edgekd.quantization.simulated_network import WEIGHT_PREFIX, program_of


def fold_batch_norms(network: Network) -> Network:
    """`network` with each batch norm folded into the convolution or linear layer before it.

    A batch norm behind another operator, or behind a layer that is called more than once, stays.
    The outputs are equal up to rounding.
    """
    nodes = list(program_of(network)[0].graph.nodes)
    module = copy.deepcopy(network.module).eval().cpu()
    calls = Counter(
        argument.target
        for node in nodes
        for argument in node.args
        if isinstance(argument, Node) and argument.op == "get_attr"
    )
    for node in nodes:
        layer = node.args[0] if operator(node) == "batch_norm" else None
        if not isinstance(layer, Node) or operator(layer) not in WEIGHTED or len(layer.users) > 1:
            continue
        weight, mean = layer.args[1], node.args[3]
        if all(isinstance(arg, Node) and calls[arg.target] == 1 for arg in (weight, mean)):
            _fold(module, _owner(weight), _owner(mean))
    return network.with_module(module)


def _owner(node: object) -> str:
    """The path, in the network's module, of the layer whose tensor `node` gives."""
    assert isinstance(node, Node)
    return str(node.target).removeprefix(WEIGHT_PREFIX).rpartition(".")[0]


def _fold(module: nn.Module, layer_path: str, norm_path: str) -> None:
    layer, norm = module.get_submodule(layer_path), module.get_submodule(norm_path)
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
        return
    fusion = torch.nn.utils.fusion
    fused: nn.Module
    if isinstance(layer, nn.Linear):
        fused = fusion.fuse_linear_bn_eval(layer, norm)
    elif isinstance(layer, nn.modules.conv._ConvNd):
        transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
        fused = fusion.fuse_conv_bn_eval(layer, norm, transpose=transposed)
    else:
        return
    for path, replacement in ((layer_path, fused), (norm_path, nn.Identity())):
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, replacement)
