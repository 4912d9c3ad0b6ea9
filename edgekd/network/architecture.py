"""What kind of network it is, as far as that decides how it is best quantized."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from edgekd.network.network import Network

Word = Literal["attention", "recurrent", "depthwise", "convolutional", "dense"]

SMALL, LARGE = 512, 2048
"""Elements of a weight: with fewer than SMALL it is seldom worth rounding, and coremltools rounds
none with fewer than LARGE unless told to."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What a network computes with.

    Attributes:
        attention: products of activations with a softmax, or layer norm: a few values are so large
            that ranges of whole tensors leave nothing for the others.
        recurrent: GRU or LSTM.
        depthwise: convolutions of one channel each.
        convolutional: convolutions of any sort.
        uneven: weights of 2048 elements or more, and others of 512 or more.
    """

    attention: bool = False
    recurrent: bool = False
    depthwise: bool = False
    convolutional: bool = False
    uneven: bool = False

    @property
    def word(self) -> Word:
        """The one of these that decides; "dense" where there is none."""
        words: tuple[Word, ...] = ("attention", "recurrent", "depthwise", "convolutional")
        return next((word for word in words if getattr(self, word)), "dense")


def architecture_of(network: Network) -> Architecture:
    """The kind of `network`, from the operators it runs on its example."""
    from edgekd.network.network import call

    module = copy.deepcopy(network.module).cpu().eval()
    seen = _Seen()
    with torch.no_grad(), seen:
        call(module, dict(network.example))
    names = {*seen.names, *_of_programs(module)}

    def has(*words: str) -> bool:
        return any(word in name for word in words for name in names)

    attends = has("scaled_dot_product") or (has("softmax") and has("bmm", "baddbmm"))
    layers = {type(each) for each in module.modules()}
    sizes = [each.numel() for each in module.parameters() if each.ndim > 1]
    return Architecture(
        attention=attends or has("layer_norm", "rms_norm"),
        recurrent=has("lstm", "gru", "rnn") or any(issubclass(each, nn.RNNBase) for each in layers),
        depthwise=seen.depthwise,
        convolutional=has("convolution"),
        uneven=any(size >= LARGE for size in sizes)
        and any(SMALL <= size < LARGE for size in sizes),
    )


class _Seen(TorchDispatchMode):
    """The names of the operators that ran while it was on."""

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


def _of_programs(module: nn.Module) -> set[str]:
    """The operators in the graphs of exported programs in `module`; run, they come in parts."""
    graphs = [each.graph for each in module.modules() if isinstance(each, torch.fx.GraphModule)]
    return {
        str(node.target) for graph in graphs for node in graph.nodes if node.op == "call_function"
    }
