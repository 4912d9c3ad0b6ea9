"""Per-layer quantization error: noise, ranges, saturated values, outlier channels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from edgekd.artifacts.artifact import Artifact
from edgekd.errors import Fault, RecipeError
from edgekd.evidence.sqnr import decibels
from edgekd.formats.capabilities import laid_out
from edgekd.formats.inspection import as_taken, quantized_tensors, run_tensors
from edgekd.network.network import Network
from edgekd.verification.divergence import DivergingLayer, in_order_of, layer_outputs, localize

SAMPLES = 8
"""The number of samples to take: a file's inner tensors are read one sample at a time."""
KEPT_VALUES = 2**14
"""Values of a sample's tensor that are kept to find its grid and its saturated share."""
LEVELS = 2**16
"""Steps of the finest grid that counts as quantized: 16 bits."""
OUTLIER_RATIO = 8.0
"""Ratio of a channel's largest magnitude to the median channel's from which it is an outlier: of
the eight bits of all channels, it takes three from the others."""


@dataclass(frozen=True)
class LayerNoise:
    """A module of the network with the tensor of the file that matches its output.

    Attributes:
        module, kind, tensor: see `DivergingLayer`; what follows is None without a tensor.
        sqnr_db: the SQNR over all samples, the noise of the layer's inputs included; inf if all is
            equal. Where the file's values begin at zero, the network's are taken after a ReLU.
        low, high: the range of the network's output.
        file_low, file_high: the range of the file's tensor.
        step: the step of the grid that the file's values lie on; None for values in float.
        saturated_frac: the share of values that are at an end of that grid while the network's are
            beyond it by more than half a step (0-1).
        outliers: by channel of the network's output, the ratio of its largest magnitude to the
            median channel's, where that is over `OUTLIER_RATIO`.
    """

    module: str
    kind: str
    tensor: str | None
    sqnr_db: float | None
    low: float
    high: float
    file_low: float | None = None
    file_high: float | None = None
    step: float | None = None
    saturated_frac: float | None = None
    outliers: Mapping[int, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `sqnr_db` is None where it is infinite."""
        exact = self.sqnr_db is not None and math.isinf(self.sqnr_db)
        return {**asdict(self), "sqnr_db": None if exact else self.sqnr_db}


@dataclass
class _Seen:
    """What the samples so far show of a layer."""

    layer: DivergingLayer
    signal: float = 0.0
    noise: float = 0.0
    ours: list[Tensor] = field(default_factory=list)
    theirs: list[Tensor] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    file_ends: list[float] = field(default_factory=list)
    channels: list[Tensor] = field(default_factory=list)


def layer_sensitivity(
    artifact: Artifact, network: Network, samples: Sequence[Mapping[str, Tensor]]
) -> list[LayerNoise]:
    """The quantization error of each layer of `network` in `artifact`, in the order they run.

    Args:
        samples: inputs by name, each a batch of the artifact's size; `SAMPLES` are enough.

    Returns:
        One entry per layer.

    Raises:
        RecipeError: there is no sample.
        RefusedError: the format's inner tensors cannot be read.
    """
    if not samples:
        raise RecipeError(
            Fault(
                what="The layers of a file cannot be measured without samples.",
                at="samples",
                got="none",
                expected="real inputs, eight or so",
                fix="give samples=[{input name: tensor}, ...], on the command line --samples FILE",
            )
        )
    artifact = laid_out(artifact, network)
    twins = quantized_tensors(artifact.path, artifact.format)
    seen = [
        _Seen(replace(layer, tensor=twins.get(layer.tensor or "", layer.tensor)))
        for layer in localize(artifact, network, samples[0])
    ]
    for sample in samples:
        inner = run_tensors(artifact.path, artifact.format, as_taken(artifact, sample))
        outputs = layer_outputs(network, sample)
        for each, (_, kind, output) in zip(seen, outputs, strict=True):
            value = inner.get(each.layer.tensor or "")
            _add(each, kind, output, value if value is None else in_order_of(output, value))
    return [_summary(each) for each in seen]


def _add(seen: _Seen, kind: str, output: Tensor, value: Tensor | None) -> None:
    seen.ends += [float(output.min()), float(output.max())]
    seen.channels.append(_by_channel(kind, output))
    if value is None:
        return
    if float(value.min()) == 0 > float(output.min()):
        # The grid begins at zero: it does the ReLU behind the layer.
        output = output.relu()
    seen.signal += float(output.double().square().sum())
    seen.noise += float((output.double() - value.double()).square().sum())
    seen.file_ends += [float(value.min()), float(value.max())]
    every = max(1, output.numel() // KEPT_VALUES)
    seen.ours.append(output.reshape(-1)[::every])
    seen.theirs.append(value.reshape(-1)[::every])


def _by_channel(kind: str, output: Tensor) -> Tensor:
    """The largest magnitude of each channel; channels are a convolution's second output axis."""
    last = output.ndim == 3 and not kind.startswith(("Conv", "BatchNorm", "MaxPool", "AvgPool"))
    axis = 1 if output.ndim in (2, 3, 4, 5) and not last else output.ndim - 1
    if output.ndim < 2:
        return output.abs().reshape(-1)
    return output.abs().movedim(axis, 0).flatten(1).amax(1)


def _summary(seen: _Seen) -> LayerNoise:
    layer = seen.layer
    summary = LayerNoise(
        layer.module,
        layer.kind,
        layer.tensor,
        None,
        min(seen.ends),
        max(seen.ends),
        outliers=_outliers(seen.channels),
    )
    if not seen.file_ends:
        return summary
    low, high = min(seen.file_ends), max(seen.file_ends)
    ours, theirs = torch.cat(seen.ours), torch.cat(seen.theirs)
    step = grid_step(theirs)
    saturated = None
    if step is not None:
        beyond = ((theirs >= high) & (ours > high + step / 2)) | (
            (theirs <= low) & (ours < low - step / 2)
        )
        saturated = float(beyond.double().mean())
    return LayerNoise(
        **{
            **vars(summary),
            "sqnr_db": decibels(seen.signal, seen.noise),
            "file_low": low,
            "file_high": high,
            "step": step,
            "saturated_frac": saturated,
        }
    )


def grid_step(values: Tensor) -> float | None:
    """The step of the grid that all `values` lie on, as quantized values do, or None.

    It is the smallest difference of two of them, so a multiple of the true one if there are few.
    """
    levels = values.double().unique()
    if len(levels) < 3 or len(levels) > LEVELS:
        return None
    steps = levels.diff()
    # Equal levels may differ in their last bits once they are scaled to float32.
    apart = steps[steps > 1e-5 * float(levels[-1] - levels[0])]
    step = float(apart.min())
    places = (levels - levels[0]) / step
    if float(places[-1]) > LEVELS or float((places - places.round()).abs().max()) > 0.05:
        return None
    return step


def _outliers(channels: Sequence[Tensor]) -> dict[int, float]:
    if len({tuple(each.shape) for each in channels}) > 1:
        return {}
    largest = torch.stack(list(channels)).amax(0)
    median = float(largest.median())
    if len(largest) < 4 or median == 0:
        return {}
    ratios = largest / median
    return {int(i): float(ratios[i]) for i in (ratios > OUTLIER_RATIO).nonzero().flatten()}
