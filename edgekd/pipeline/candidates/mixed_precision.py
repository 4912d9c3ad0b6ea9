"""Which layers of a file cost the most when they are quantized, found on the file itself."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from edgekd.artifacts.artifact import load_artifact
from edgekd.conversion.export import sqnr_db, to_turn
from edgekd.conversion.worker_pool import Conversion, convert_each
from edgekd.data import joined
from edgekd.devices.execution import run_artifact
from edgekd.errors import EdgekdError
from edgekd.evidence.outcome import Verdict
from edgekd.formats import find_format
from edgekd.network.network import Network, call
from edgekd.network.preprocessing import channels_last as turn_channels

MOST_GROUPS = 24
"""Of more layers, neighbours are kept in float together: each group costs a conversion."""


def layers_of(network: Network, format: str, channels_last: bool | None = None) -> list[str]:
    """The layers of `network` in a file of `format`, in order; empty where it cannot tell them."""
    list_layers = getattr(find_format(format), "layers", None)
    if list_layers is None:
        return []
    images = to_turn(network, format, channels_last)
    found: list[str] = list_layers(turn_channels(network, images) if images else network)
    return found


def grouped(layers: Sequence[str], most: int = MOST_GROUPS) -> list[tuple[str, ...]]:
    """`layers` in at most `most` groups of neighbours, as even as can be."""
    size = max(1, math.ceil(len(layers) / most))
    return [tuple(layers[start : start + size]) for start in range(0, len(layers), size)]


def sqnr_by_group(
    conversion: Conversion,
    groups: Sequence[tuple[str, ...]],
    *,
    processes: int | None,
    timeout_s: float,
) -> Mapping[tuple[str, ...], float]:
    """By group, the SQNR in dB of the file on its calibration samples with that group quantized and
    the other layers in float: the least is the most sensitive.

    A layer alone in float shows less: its neighbour may quantize the tensor between the two all the
    same. A group that the quantizer does not quantize alone has none.
    """
    # Rounding what comes in and goes out is of no layer, and would hide what little one does.
    conversion = replace(conversion, io="float32")
    samples = conversion.calibration
    module = copy.deepcopy(conversion.network.module).cpu().eval()
    with torch.no_grad():
        wanted = [call(module, sample) for sample in samples]
    reference = {name: torch.cat([each[name] for each in wanted]) for name in wanted[0]}
    jobs = {
        str(number): replace(
            conversion, keep=tuple(name for other in groups if other != group for name in other)
        )
        for number, group in enumerate(groups)
    }
    found: dict[tuple[str, ...], float] = {}
    for name, ended in convert_each(jobs, processes=processes, timeout_s=timeout_s):
        if isinstance(ended, EdgekdError):
            continue
        ran = run_artifact(load_artifact(ended), joined(list(samples)), "local")
        if not isinstance(ran, Verdict):
            found[groups[int(name)]] = sqnr_db(reference, ran.outputs)
    return found
