"""Image layouts of a network: channels first, channels last, and the wrapper between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from edgekd.artifacts.signature import Signature
from edgekd.data import Inputs
from edgekd.network.network import Network, call

NHWC = "batch height width channels"
NCHW = "batch channels height width"


class ChannelsLast(nn.Module):
    """A network that takes some images in NHWC, channels last."""

    def __init__(self, network: Network, images: tuple[str, ...]) -> None:
        super().__init__()
        self.module = network.module
        self.names, self.images = tuple(network.signature.input_names), images

    def forward(self, *tensors: Tensor) -> dict[str, Tensor]:
        given = dict(zip(self.names, tensors, strict=True))
        return call(
            self.module,
            {n: v.permute(0, 3, 1, 2) if n in self.images else v for n, v in given.items()},
        )


def images_of(network: Network) -> tuple[str, ...]:
    """The inputs that are NCHW images of 1, 3 or 4 channels, without embedded preprocessing."""
    folds = network.lineage.get("folded", {}).get("inputs", {})
    return tuple(
        spec.name
        for spec in network.signature.inputs
        if len(spec.shape) == 4 and spec.shape[1] in (1, 3, 4) and spec.layout is None
        if spec.dtype == "float32" and spec.name not in folds
    )


def channels_last(network: Network, images: tuple[str, ...]) -> Network:
    """`network` with the inputs `images` in NHWC, the layout of cameras and LiteRT."""
    example = to_nhwc(network.example, images)
    lineage = {"network_sha256": network.weights_digest(), **network.lineage}
    wrapped = network.like(ChannelsLast(network, images).eval(), example, lineage)
    inputs = tuple(
        replace(spec, layout=NHWC if spec.name in images else old.layout, meaning=old.meaning)
        for spec, old in zip(wrapped.signature.inputs, network.signature.inputs, strict=True)
    )
    return replace(wrapped, signature=Signature(inputs, network.signature.outputs))


def to_nhwc(inputs: Mapping[str, Tensor], images: Sequence[str]) -> Inputs:
    """`inputs` with `images` converted from NCHW to NHWC."""
    return {
        name: value.permute(0, 2, 3, 1).contiguous() if name in images else value
        for name, value in inputs.items()
    }
