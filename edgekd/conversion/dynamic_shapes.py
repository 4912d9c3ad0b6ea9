"""Checks of dynamic shapes: which formats have none, and whether a file takes those it declares."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from edgekd.artifacts.artifact import Artifact
from edgekd.artifacts.scheme import SCHEMES
from edgekd.data import Inputs
from edgekd.devices.execution import run_artifact
from edgekd.errors import ConversionError, Fault, RefusedError, listed
from edgekd.evidence.outcome import Verdict
from edgekd.evidence.sqnr import sqnr_db
from edgekd.formats.capabilities import has_fixed_shapes, takes_single_samples, title
from edgekd.network.dynamic_shapes import other_sizes, resized
from edgekd.network.network import Network, call


def refuse_dynamic_shapes(network: Network, format: str) -> None:
    """Raises a RefusedError if `network` has dynamic dimensions, or a batch, and `format` does not
    support them."""
    if network.dynamic and has_fixed_shapes(format):
        raise RefusedError(
            Fault(
                what=f"{title(format)} files have static shapes.",
                at=f"format {format}",
                got=f"dynamic dimensions {listed(dim.name for dim in network.dynamic)}",
                expected="a network without dynamic dimensions",
                fix="export it at the largest size, and pad; other formats take dynamic dimensions",
            )
        )
    batch = {name: tensor.shape[0] for name, tensor in network.example.items() if tensor.ndim}
    several = [name for name, size in batch.items() if size != 1]
    if several and takes_single_samples(format):
        raise RefusedError(
            Fault(
                what=f"{title(format)} computes one sample at a time.",
                at=f"format {format}, input {several[0]}",
                got=f"a first axis of {batch[several[0]]}",
                expected="1",
                fix="load the network with an example of one sample; other formats take batches",
            )
        )


def check_dynamic_shapes(
    artifact: Artifact, network: Network, calibration: Sequence[Inputs]
) -> None:
    """Runs `artifact` at two other settings of its dynamic dimensions and compares it with
    `network`.

    Raises:
        ConversionError: it does not take one of them, or its outputs differ: exporters silently
            freeze a dimension.
    """
    given = calibration[0] if calibration else network.example
    module = copy.deepcopy(network.module).cpu().eval()
    for sizes in other_sizes(given, network.dynamic):
        inputs = resized(given, sizes, network.dynamic)
        setting = ", ".join(f"{name} = {size}" for name, size in sizes.items())
        with torch.no_grad():
            reference = call(module, inputs)
        batch = next(iter(inputs.values())).shape[0]
        ran = run_artifact(artifact, inputs, "local", batch=batch)
        if isinstance(ran, Verdict):
            raise ConversionError(_frozen(artifact, setting, f"{ran.outcome.value}: {ran.detail}"))
        for name, value in reference.items():
            shape = ran.outputs[name].shape
            if shape != value.shape:
                got = f"output {name} of shape {tuple(shape)}, not {tuple(value.shape)}"
                raise ConversionError(_frozen(artifact, setting, got))
        # Half the floor for calibrated files: one repeated sample is not what they are made for.
        scheme = SCHEMES[str(artifact.scheme)]
        floor = scheme.sqnr_floor_db / 2 if scheme.calibrated else scheme.sqnr_floor_db
        reached_db = sqnr_db(reference, ran.outputs)
        if reached_db < floor:
            got = f"SQNR of {reached_db:.1f} dB there, under {floor:.0f}"
            raise ConversionError(_frozen(artifact, setting, got))


def _frozen(artifact: Artifact, setting: str, got: str) -> Fault:
    return Fault(
        what=f"The {artifact.format} file does not take a size in a declared dynamic dimension.",
        at=f"{artifact.format} {artifact.scheme}, {setting}",
        got=got,
        expected="the network's outputs at this size",
        fix="declare the dimension static, or leave this format out for it",
    )
