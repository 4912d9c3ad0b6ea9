"""The layers of a file that lose most by quantization, measured on the file itself."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from edgekd.artifacts.artifact import load_artifact
from edgekd.conversion.export import channels_last_inputs
from edgekd.conversion.worker_pool import Conversion, convert_each
from edgekd.data import joined
from edgekd.devices.execution import run_artifact
from edgekd.errors import EdgekdError
from edgekd.evidence.outcome import Verdict
from edgekd.evidence.sqnr import sqnr_db
from edgekd.formats.capabilities import layer_lister
from edgekd.formats.options import ExportOptions
from edgekd.network.network import Network, call
from edgekd.network.preprocessing import channels_last as turn_channels

MOST_GROUPS = 24
"""The largest number of groups of neighbouring layers: each group costs one conversion."""


def layers_of(network: Network, format: str, channels_last: bool | None = None) -> list[str]:
    """The layers of `network` in a file of `format`, in order; empty if it cannot list them."""
    list_layers = layer_lister(format)
    if list_layers is None:
        return []
    images = channels_last_inputs(network, format, channels_last)
    return list_layers(turn_channels(network, images) if images else network)


def grouped(layers: Sequence[str], most: int = MOST_GROUPS) -> list[tuple[str, ...]]:
    """`layers` in at most `most` groups of neighbours, of nearly equal size."""
    size = max(1, math.ceil(len(layers) / most))
    return [tuple(layers[start : start + size]) for start in range(0, len(layers), size)]


def sqnr_by_group(
    conversion: Conversion,
    groups: Sequence[tuple[str, ...]],
    *,
    processes: int | None,
    timeout_s: float,
) -> Mapping[tuple[str, ...], float]:
    """By group, the SQNR in dB of a file in which only that group is quantized.

    The group with the lowest SQNR is the most sensitive. Keeping only one layer in float shows
    less: its neighbour may still quantize the tensor between them. A group that the quantizer does
    not quantize alone is left out.
    """
    # Integer inputs and outputs belong to no layer, and would hide the error of a good one.
    options = replace(conversion.options, io="float32")
    samples = conversion.calibration
    module = copy.deepcopy(conversion.network.module).cpu().eval()
    with torch.no_grad():
        outputs = [call(module, sample) for sample in samples]
    reference = {name: torch.cat([each[name] for each in outputs]) for name in outputs[0]}
    jobs = {
        str(number): replace(conversion, options=_only(group, groups, options))
        for number, group in enumerate(groups)
    }
    sqnr: dict[tuple[str, ...], float] = {}
    for name, ended in convert_each(jobs, processes=processes, timeout_s=timeout_s):
        if isinstance(ended, EdgekdError):
            continue
        ran = run_artifact(load_artifact(ended), joined(list(samples)), "local")
        if not isinstance(ran, Verdict):
            sqnr[groups[int(name)]] = sqnr_db(reference, ran.outputs)
    return sqnr


def _only(
    group: tuple[str, ...], groups: Sequence[tuple[str, ...]], options: ExportOptions
) -> ExportOptions:
    """`options` with all groups but `group` in float."""
    others = (name for other in groups if other != group for name in other)
    return replace(options, excluded_operators=tuple(others))
