"""Inserts quantizers into a network's graph where the static int8 quantizer of a format does.

The rules follow the quantizers as they were read and run: onnxruntime 1.32, NNCF 3.4,
ai-edge-quantizer 0.10. Every file is checked against them: its outputs must be the simulation's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node

from edgekd.artifacts.quantizer_rules import (
    AVERAGES,
    CONVOLUTIONS,
    MATRIX,
    TRANSPOSED,
    WEIGHTED,
    QuantizerRules,
)

SAME = frozenset(
    {"view", "reshape", "flatten", "unflatten", "transpose", "permute", "squeeze", "unsqueeze"}
    | {"slice", "select", "chunk", "split", "split_with_sizes", "unbind", "getitem", "contiguous"}
    | {"dropout", "clone", "alias", "max_pool1d", "max_pool2d", "expand", "pixel_shuffle", "pad"}
    | {"constant_pad_nd", "upsample_nearest2d", "narrow", "t", "detach", "channel_shuffle"}
)
"""Operators that only move or pick values: their output is on the grid of their input."""
RECTIFIED = frozenset({"relu", "relu6", "hardtanh", "clamp"})
"""Activations that runtimes fuse with the operator before: the grid is that of their output."""


def operator(node: Node) -> str:
    """The name of the operator of `node`: "conv2d", "add", "relu"; "" for an input or a weight."""
    if node.op != "call_function":
        return ""
    packet = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(packet, "__name__", packet)).rstrip("_").removeprefix("_")


def is_real(node: Node) -> bool:
    """Whether the output of `node` is one tensor of real numbers."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def refusals(graph: Graph, rules: QuantizerRules) -> list[str]:
    """The operators of `graph` that the simulation of `rules` does not cover."""
    return sorted({operator(node) for node in graph.nodes} & rules.refused)


@dataclass(frozen=True)
class QuantizerPlacement:
    """Where quantizers are inserted.

    Attributes:
        grids: the number of the grid of each node whose output is quantized.
        fixed: the range of each grid whose range is constant, by number.
        weights: the channel axis of each node that is a weight.
        readers: the operators that read quantized values; None: all.
        outputs: the numbers of the grids of the network's outputs.
        channels: the number of channels of each grid that is per channel, by number.
    """

    grids: Mapping[Node, int]
    fixed: Mapping[int, tuple[float, float]]
    weights: Mapping[Node, int]
    readers: frozenset[str] | None
    outputs: frozenset[int]
    channels: Mapping[int, int]


def place_quantizers(graph: Graph, rules: QuantizerRules) -> QuantizerPlacement:
    """Where the quantizer of `rules` inserts quantizers into `graph`, a program with shapes."""
    marks = _Marks(rules)
    weights: dict[Node, int] = {}
    for node in graph.nodes:
        name = operator(node)
        if name in WEIGHTED & (rules.both | rules.inputs) and _is_weight(node.args[1]):
            weights[node.args[1]] = 1 if name in TRANSPOSED else 0
        takes, gives = name in rules.both | rules.inputs, name in rules.both
        if name in rules.given and all(user.op == "output" for user in node.users):
            gives = False
        if takes:
            for source in _operands(node, name):
                marks.mark(source)
        if gives and is_real(node):
            marks.mark(node)
            if name == "cat" and rules.joined:
                marks.join(node)
        elif name in AVERAGES and rules.averages:
            marks.follow(node)
        elif name in RECTIFIED and rules.rectified:
            marks.rectify(node)
    if rules.summed:
        marks.grids = {n: k for n, k in marks.grids.items() if not _only_summed(n)}
    readers = rules.inputs | SAME | {"cat"} if rules.inputs else None
    outputs = frozenset(
        number
        for node, number in marks.grids.items()
        if any(user.op == "output" for user in node.users)
    )
    channels = {
        number: int(node.meta["val"].shape[1])
        for node, number in marks.grids.items()
        if rules.by_channel and all(_is_depthwise(user) for user in node.users)
    }
    return QuantizerPlacement(marks.grids, marks.fixed, weights, readers, outputs, channels)


def _operands(node: Node, name: str) -> Iterator[Node]:
    """The inputs of a node that are activations: not its weight, bias or statistics."""
    first = node.args[0]
    if name == "cat":
        yield from (each for each in first if isinstance(each, Node))  # type: ignore[union-attr]
        return
    operands = node.args[:2] if name in MATRIX | {"add", "sub", "mul", "div"} else node.args[:1]
    if name == "where":
        operands = node.args[1:3]
    yield from (each for each in operands if isinstance(each, Node) and is_real(each))


def _only_summed(node: Node) -> bool:
    return operator(node) in CONVOLUTIONS and all(operator(user) == "add" for user in node.users)


def _is_depthwise(node: Node) -> bool:
    """Whether `node` is a depthwise convolution."""
    groups = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
    weight = node.args[1] if operator(node) in CONVOLUTIONS else None
    return isinstance(weight, Node) and groups == weight.meta["val"].shape[0] != 1


def _is_weight(node: Any) -> bool:
    return isinstance(node, Node) and node.op == "get_attr"


class _Marks:
    """The grids that were assigned so far."""

    def __init__(self, rules: QuantizerRules) -> None:
        self.rules = rules
        self.grids: dict[Node, int] = {}
        self.fixed: dict[int, tuple[float, float]] = {}
        self.count = 0

    def source(self, node: Node) -> Node:
        """The node whose values `node` gives, past operators that only move them."""
        while operator(node) in SAME and isinstance(node.args[0], Node):
            node = node.args[0]
        return node

    def mark(self, node: Node, number: int | None = None) -> None:
        """Puts the output of `node` on a grid, its own unless `number` is given."""
        node = self.source(node)
        # Constants of sums and products are rounded too; their error is small and left out.
        if node in self.grids or node.op == "get_attr" or not is_real(node):
            return
        if number is None:
            number, self.count = self.count, self.count + 1
        if operator(node) == "cat" and self.rules.shared:
            for each in _operands(node, "cat"):
                self.mark(each, number)
            return
        self.grids[node] = number
        if operator(node) in self.rules.fixed:
            self.fixed[number] = self.rules.fixed[operator(node)]

    def join(self, node: Node) -> None:
        """Puts the inputs of the concatenation `node` that nothing else reads on its grid."""
        for each in _operands(node, "cat"):
            if len(each.users) == 1 and each in self.grids:
                self.grids[each] = self.grids[node]

    def follow(self, node: Node) -> None:
        """Puts `node` on the grid of its input, if that has one."""
        source = self.source(node.args[0])  # type: ignore[arg-type]
        if source in self.grids:
            self.grids[node] = self.grids[source]

    def rectify(self, node: Node) -> None:
        """Moves the grid from the input of an activation to its output, if nothing else reads that
        input."""
        before = node.args[0]
        assert isinstance(before, Node)
        if self.source(before) not in self.grids:
            return
        alone = len(before.users) == 1 and before in self.grids and before.op == "call_function"
        if alone and operator(before) not in self.rules.fixed:
            self.grids[node] = self.grids.pop(before)
        else:
            self.mark(node)
