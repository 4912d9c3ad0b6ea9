"""The architecture family of a network, which decides how it is quantized."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from edgekd.network.network import Network

Family = Literal["attention", "recurrent", "depthwise", "convolutional", "dense"]

SMALL, LARGE = 512, 2048
"""Numbers of elements. Weights below SMALL are seldom worth quantizing; by default coremltools does
not quantize weights below LARGE."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The kinds of layers in a network that matter for quantization.

    Attributes:
        attention: softmax attention or layer normalization, whose activation outliers leave little
            resolution for the other values of a tensor.
        recurrent: GRU or LSTM.
        depthwise: depthwise convolutions.
        convolutional: convolutions of any kind.
        uneven: some weights with 2,048 elements or more, and some with 512 to 2,047.
    """

    attention: bool = False
    recurrent: bool = False
    depthwise: bool = False
    convolutional: bool = False
    uneven: bool = False

    @property
    def family(self) -> Family:
        """The architecture family: the first of these that applies, or "dense"."""
        families: tuple[Family, ...] = ("attention", "recurrent", "depthwise", "convolutional")
        return next((family for family in families if getattr(self, family)), "dense")


def architecture_of(network: Network) -> Architecture:
    """The architecture of `network`, from the operators that it runs on its example."""
    from edgekd.network.network import call

    module = copy.deepcopy(network.module).cpu().eval()
    recorder = _OperatorRecorder()
    with torch.no_grad(), recorder:
        call(module, dict(network.example))
    names = {*recorder.names, *_program_operators(module)}

    def has(*parts: str) -> bool:
        return any(part in name for part in parts for name in names)

    attends = has("scaled_dot_product") or (has("softmax") and has("bmm", "baddbmm"))
    layers = {type(layer) for layer in module.modules()}
    sizes = [parameter.numel() for parameter in module.parameters() if parameter.ndim > 1]
    return Architecture(
        attention=attends or has("layer_norm", "rms_norm"),
        recurrent=has("lstm", "gru", "rnn")
        or any(issubclass(layer, nn.RNNBase) for layer in layers),
        depthwise=recorder.depthwise,
        convolutional=has("convolution"),
        uneven=any(size >= LARGE for size in sizes)
        and any(SMALL <= size < LARGE for size in sizes),
    )


class _OperatorRecorder(TorchDispatchMode):
    """Records the names of the operators that run inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.depthwise = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.names.add(str(func))
        if "convolution" in str(func):
            weight, groups = args[1], args[-1]
            self.depthwise |= isinstance(groups, int) and groups > 1 and weight.shape[1] == 1
        return func(*args, **(kwargs or {}))


def _program_operators(module: nn.Module) -> set[str]:
    """The operators in the graphs of exported programs in `module`, which run decomposed."""
    graphs = [part.graph for part in module.modules() if isinstance(part, torch.fx.GraphModule)]
    return {
        str(node.target) for graph in graphs for node in graph.nodes if node.op == "call_function"
    }
