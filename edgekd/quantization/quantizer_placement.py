"""Where the static int8 quantizer of each format rounds, told of a network's operators.

So the quantizers do as they were read and run: onnxruntime 1.32, NNCF 3.4, ai-edge-quantizer 0.10.
That is checked of every file: it has to give what the simulation gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.fx import Graph, Node

from edgekd.quantization.fake_quantize import WeightCodes

CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
TRANSPOSED = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
WEIGHTED = CONVOLUTIONS | TRANSPOSED | {"linear"}
MATRIX = frozenset({"matmul", "bmm"})
POOLS = frozenset({"mean", "adaptive_avg_pool1d", "adaptive_avg_pool2d"})
SAME = frozenset(
    {"view", "reshape", "flatten", "unflatten", "transpose", "permute", "squeeze", "unsqueeze"}
    | {"slice", "select", "chunk", "split", "split_with_sizes", "unbind", "getitem", "contiguous"}
    | {"dropout", "clone", "alias", "max_pool1d", "max_pool2d", "expand", "pixel_shuffle", "pad"}
    | {"constant_pad_nd", "upsample_nearest2d", "narrow", "t", "detach", "channel_shuffle"}
)
"""What only moves or picks values: the grid before it is the grid behind it."""
AVERAGES = frozenset({"avg_pool1d", "avg_pool2d"})
RECTIFIED = frozenset({"relu", "relu6", "hardtanh", "clamp"})
"""What runtimes fuse with the operator before it: the grid is that of its output."""
RECURRENT = frozenset({"gru", "lstm", "rnn_tanh", "rnn_relu"})


@dataclass(frozen=True)
class Rules:
    """Where one format's quantizer rounds.

    Attributes:
        codes: of weights.
        both: operators whose inputs and outputs are on grids.
        inputs: operators of which only the inputs have to be; what else reads them gets them as
            they are.
        widened: whether a range is widened for its zero; see `widened_grid`.
        rectified: whether an activation is one with what is before it.
        shared: whether all that is concatenated is on one grid, whatever it was on.
        joined: whether what is concatenated, and read by nothing else, is on the grid of the whole.
        averages: whether a pool's mean stays on the grid of what is averaged.
        fixed: the range of what operators give, where it is always the same.
        given: operators whose output is not on a grid where it is one of the network's.
        summed: whether a convolution that only sums read is added to before it is rounded: in the
            file it is rounded first, but OpenVINO's CPU plugin makes one kernel of the two.
        by_channel: whether what only depthwise convolutions read has a grid for each channel.
        headroom: what an output's range is widened by on either side, as a share of it.
        spelled: operators it sees as several, by name; see `spell_out`.
        refused: operators whose insides are quantized where no simulation sees it.
    """

    codes: WeightCodes
    both: frozenset[str] = frozenset()
    inputs: frozenset[str] = frozenset()
    widened: bool = False
    rectified: bool = True
    shared: bool = False
    joined: bool = False
    averages: bool = True
    fixed: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    summed: bool = False
    by_channel: bool = False
    headroom: float = 0.0
    spelled: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()


_ONNX = Rules(
    codes=WeightCodes(-64, 64, 64.0),
    both=WEIGHTED
    | MATRIX
    | {"add", "mul", "sigmoid", "cat", "softmax", "leaky_relu", "where", "batch_norm"},
    given=MATRIX | {"linear"},
    spelled=frozenset({"hardswish", "silu", "linear"}),
)
_OPENVINO = Rules(
    codes=WeightCodes(-63, 64, 63.5, least_frac=0.01),
    inputs=WEIGHTED
    | MATRIX
    | POOLS
    | AVERAGES
    | {"add", "sub", "mul", "div", "batch_norm", "upsample_bilinear2d"},
    widened=True,
    rectified=False,
    shared=True,
    summed=True,
    by_channel=True,
    averages=False,
    refused=RECURRENT | {"softmax", "layer_norm"},
)
_LITERT = Rules(
    codes=WeightCodes(-127, 127, 127.0),
    both=WEIGHTED
    | MATRIX
    | POOLS
    | {"add", "sub", "mul", "div", "cat", "sigmoid", "tanh", "hardswish", "gelu", "softmax"}
    | {"batch_norm", "upsample_bilinear2d"},
    fixed={"sigmoid": (0.0, 255 / 256), "softmax": (0.0, 255 / 256), "tanh": (-1.0, 127 / 128)},
    joined=True,
    headroom=0.125,
    spelled=frozenset({"hardsigmoid", "silu"}),
    refused=RECURRENT,
)
WIDE = WeightCodes(-127, 127, 127.0)
"""Of weights in all eight bits."""

METHODS: dict[tuple[str, str], Rules] = {
    ("onnx", "min-max"): _ONNX,
    ("onnx", "linear"): replace(
        _ONNX, both=CONVOLUTIONS | MATRIX | {"linear"}, rectified=False, averages=False
    ),
    ("openvino", "min-max-uncorrected"): _OPENVINO,
    ("litert", "min-max"): _LITERT,
    ("litert", "linear"): replace(_LITERT, both=CONVOLUTIONS | {"linear"}, averages=False),
}
"""By format and method of its quantizer, those that are simulated: true minima and maxima, and
weights and biases as they are."""


def placement_rules(format: str, method: str, weight_bits: int = 7) -> Rules:
    """Where the quantizer of `format` rounds by `method`, its weights in 7 or all 8 bits.

    Raises:
        KeyError: it is not simulated.
    """
    rules = METHODS[format, method]
    if weight_bits == 7:
        return rules
    return replace(rules, codes=replace(WIDE, least_frac=rules.codes.least_frac))


def operator(node: Node) -> str:
    """The name of what `node` computes: "conv2d", "add", "relu"; "" of an input or a weight."""
    if node.op != "call_function":
        return ""
    packet = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(packet, "__name__", packet)).rstrip("_").removeprefix("_")


def is_real(node: Node) -> bool:
    """Whether `node` gives one tensor of real numbers."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def refusals(graph: Graph, rules: Rules) -> list[str]:
    """The operators of `graph` that cannot be simulated by `rules`."""
    return sorted({operator(node) for node in graph.nodes} & rules.refused)


@dataclass(frozen=True)
class QuantizerPlacement:
    """What is rounded.

    Attributes:
        grids: by node whose output is put on a grid, the number of the grid.
        fixed: by number of a grid, its range where that is always the same.
        weights: by node that gives a weight, the axis of its channels.
        readers: the operators that read a grid; None: all.
        outputs: the grids of what the network gives.
        channels: by number of a grid that is one for each channel, how many.
    """

    grids: Mapping[Node, int]
    fixed: Mapping[int, tuple[float, float]]
    weights: Mapping[Node, int]
    readers: frozenset[str] | None
    outputs: frozenset[int]
    channels: Mapping[int, int]


def place_quantizers(graph: Graph, rules: Rules) -> QuantizerPlacement:
    """What the quantizer of `rules` rounds in `graph`, an exported program with its shapes."""
    found = _Marks(rules)
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
                found.mark(source)
        if gives and is_real(node):
            found.mark(node)
            if name == "cat" and rules.joined:
                found.join(node)
        elif name in AVERAGES and rules.averages:
            found.follow(node)
        elif name in RECTIFIED and rules.rectified:
            found.rectify(node)
    if rules.summed:
        found.grids = {n: k for n, k in found.grids.items() if not _only_summed(n)}
    readers = rules.inputs | SAME | {"cat"} if rules.inputs else None
    outputs = frozenset(
        number
        for node, number in found.grids.items()
        if any(user.op == "output" for user in node.users)
    )
    channels = {
        number: int(node.meta["val"].shape[1])
        for node, number in found.grids.items()
        if rules.by_channel and all(_is_depthwise(user) for user in node.users)
    }
    return QuantizerPlacement(found.grids, found.fixed, weights, readers, outputs, channels)


def _operands(node: Node, name: str) -> Iterator[Node]:
    """What of a node's inputs is an activation: not its weight, bias or statistics."""
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
    """Whether `node` is a convolution of one channel each."""
    groups = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
    weight = node.args[1] if operator(node) in CONVOLUTIONS else None
    return isinstance(weight, Node) and groups == weight.meta["val"].shape[0] != 1


def _is_weight(node: Any) -> bool:
    return isinstance(node, Node) and node.op == "get_attr"


class _Marks:
    """The grids found so far."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.grids: dict[Node, int] = {}
        self.fixed: dict[int, tuple[float, float]] = {}
        self.count = 0

    def source(self, node: Node) -> Node:
        """Where the values of `node` come from, past what only moves them."""
        while operator(node) in SAME and isinstance(node.args[0], Node):
            node = node.args[0]
        return node

    def mark(self, node: Node, number: int | None = None) -> None:
        """Puts what `node` gives on a grid, its own unless `number` is given."""
        node = self.source(node)
        # Constants of sums and products are rounded too; they are small against what they join.
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
        """Puts what `node` concatenates, and nothing else reads, on its grid."""
        for each in _operands(node, "cat"):
            if len(each.users) == 1 and each in self.grids:
                self.grids[each] = self.grids[node]

    def follow(self, node: Node) -> None:
        """Keeps `node` on the grid of what it takes, if that is on one."""
        source = self.source(node.args[0])  # type: ignore[arg-type]
        if source in self.grids:
            self.grids[node] = self.grids[source]

    def rectify(self, node: Node) -> None:
        """Moves the grid before an activation behind it, where nothing else reads what is there."""
        before = node.args[0]
        assert isinstance(before, Node)
        if self.source(before) not in self.grids:
            return
        alone = len(before.users) == 1 and before in self.grids and before.op == "call_function"
        if alone and operator(before) not in self.rules.fixed:
            self.grids[node] = self.grids.pop(before)
        else:
            self.mark(node)
