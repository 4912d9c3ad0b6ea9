"""A network written as a file of a format, in a precision."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgekd.artifacts.artifact import Artifact, describe, load_artifact, save_card, zipped
from edgekd.artifacts.quantization_params import Io
from edgekd.artifacts.quantized_fraction import quantized_facts
from edgekd.artifacts.scheme import SCHEMES
from edgekd.calibration.checks import unusable
from edgekd.conversion.exportability import branching, check_sound
from edgekd.conversion.fp16_range import check_fp16_range
from edgekd.conversion.options import check_exportable
from edgekd.data import Inputs
from edgekd.devices.execution import run_artifact
from edgekd.errors import ConversionError, EdgekdError, Fault, RecipeError, RefusedError, listed
from edgekd.evidence.outcome import Verdict
from edgekd.formats import find_format, quantization
from edgekd.formats.inspection import READERS, read_graph, read_stored
from edgekd.formats.onnx import opset_of
from edgekd.formats.quantization_methods import suited, uses_samples
from edgekd.network.dynamic_shapes import other_sizes, resized
from edgekd.network.network import Exportable, Network, call
from edgekd.network.preprocessing import channels_last as turn_channels
from edgekd.network.preprocessing import images_of, turned
from edgekd.network.source_location import origin
from edgekd.system.files import written_atomically
from edgekd.system.output import last_lines, output_to
from edgekd.system.packages import tool_versions

MODEL = "model"
LOG = "log.txt"


def export(
    network: Network,
    *,
    format: str,
    scheme: str = "fp32",
    calibration: Sequence[Inputs] | None = None,
    out: Path | str = "build",
    method: str | None = None,
    opset: int | None = None,
    channels_last: bool | None = None,
    io: Io = "float32",
) -> Artifact:
    """`network` as a file of `format` in `scheme`, in the folder `out/FORMAT-SCHEME/`.

    Beside the file is its `artifact.json`, beside the folder `FORMAT-SCHEME.log`, all that the
    converter printed. A conversion that fails leaves an earlier artifact as it is.

    Args:
        calibration: inputs by name, batch first, for schemes that measure activation ranges.
        method: of quantizing, of the format's `METHODS[scheme]`; None: the first that suits the
            network.
        opset: of ONNX: the version of its operators, for a runtime that is old.
        channels_last: whether the file takes images as NHWC: inputs in float32 of four axes and
            1, 3 or 4 channels; None: in LiteRT, where a transpose would come first otherwise.
        io: int8 or uint8: what the file has in place of float32 inputs and outputs. Of static int8
            alone; `artifact.quantization` says what the numbers stand for.

    Raises:
        RecipeError: the format or scheme is unknown, the calibration is missing or does not fit,
            or the network is none that a file could stand for.
        RefusedError: the format cannot be written in this scheme here, or the network has numbers
            that the scheme has not.
        MissingPackageError: the format's packages are not installed.
        ConversionError: the converter failed.
    """
    check_exportable(format, scheme, opset, method, io)
    samples = _checked(network, scheme, calibration or (), method)
    check_fp16_range(network, format, scheme, calibration or [dict(network.example)])
    folder = Path(out) / f"{format}-{scheme}"
    log = folder.with_name(f"{folder.name}.log")
    log.unlink(missing_ok=True)
    with written_atomically(folder) as draft:
        convert(
            network,
            format,
            scheme,
            samples,
            draft,
            log=log,
            method=method,
            opset=opset,
            channels_last=channels_last,
            io=io,
        )
    return load_artifact(folder)


def convert(
    network: Network,
    format: str,
    scheme: str,
    calibration: Sequence[Inputs],
    folder: Path,
    *,
    log: Path | None = None,
    method: str | None = None,
    keep: Sequence[str] = (),
    weight_bits: int = 7,
    opset: int | None = None,
    channels_last: bool | None = None,
    io: str = "float32",
) -> Artifact:
    """`network` written into `folder`, what the converter prints into `log`.

    Args:
        method: of quantizing; None: the first that suits the network.
        keep: operators of the file that stay in float, by name.
        weight_bits: 7 or 8, of the int8 of weights that are used; see `quantization.weight_bits`.

    Raises:
        RecipeError: it is no network that a file could stand for; see `check_sound`.
        ConversionError: the converter failed; its last lines are told, all are in the log.
    """
    check_sound(network)
    refuse_dynamic_shapes(network, format)
    images = to_turn(network, format, channels_last)
    if images:
        network = turn_channels(network, images)
        calibration = [turned(sample, images) for sample in calibration]
    module = find_format(format)
    folder.mkdir(parents=True, exist_ok=True)
    log = log or folder / LOG
    path = folder / f"{MODEL}{module.SUFFIX}"
    try:
        with output_to(log):
            write: Any = module.convert
            method = method or suited(network, format, scheme)
            own = {"method": method, "keep": tuple(keep), "opset": opset}
            own |= {"weight_bits": weight_bits if weight_bits != 7 else None}
            own |= {"io": io if io != "float32" else None}
            given = {name: value for name, value in own.items() if value}
            how = write(network, scheme, calibration, path, **given)
    except EdgekdError:
        raise
    except Exception as error:
        raise failed(f"The converter to {format}", error, scheme, log) from error
    lineage = {
        # An exported program that stands for a network carries that network's digest.
        "network_sha256": network.weights_digest(),
        **network.lineage,
        "method": how,
        "calibration": samples_digest(calibration) if uses_samples(scheme, method) else None,
        "tools": tool_versions(module.PACKAGES),
    }
    if method is not None:
        lineage["quantizer"] = {"method": method, "keep": list(keep), "weight_bits": weight_bits}
    if images:
        lineage["channels_last"] = list(images)
    if io != "float32":
        steps = quantization(format, path)
        lineage["quantization"] = {name: vars(step) for name, step in steps.items()}
    if format == "onnx":
        lineage["opset"] = opset_of(path)
    if network.dynamic:
        lineage["free"] = [each.to_json() for each in network.dynamic]
        shapes = {name: list(tensor.shape) for name, tensor in network.example.items()}
        lineage["example_shapes"] = shapes
    if format in READERS:
        graph = read_graph(path, format)
        lineage |= quantized_facts(graph, read_stored(path, format), scheme)
        lineage["operators"] = graph.operators
        lineage["transposes"] = graph.transposes
    artifact = describe(path, format, scheme, network.signature, lineage, zipped(path))
    if network.dynamic:
        check_dynamic_shapes(artifact, network, calibration)
    save_card(artifact)
    return artifact


def to_turn(network: Network, format: str, channels_last: bool | None) -> tuple[str, ...]:
    """The inputs that the file takes with their channels last."""
    if channels_last is False or (channels_last is None and format != "litert"):
        return ()
    found = images_of(network)
    if channels_last and (network.dynamic or not found):
        raise RecipeError(
            Fault(
                what="The file cannot take its images with their channels last.",
                at="channels_last",
                got="free sizes" if network.dynamic else "no input is an image with channels first",
                expected="float32, fixed sizes, batch, 1, 3 or 4 channels, height, width",
                fix="leave channels_last out; of an input that is folded, set its layout",
            )
        )
    return found


FIXED = {"litert": "LiteRT's", "ncnn": "ncnn's"}
"""The formats whose files have fixed sizes; ncnn has free ones, pnnx writes none."""


def refuse_dynamic_shapes(network: Network, format: str) -> None:
    """Raises where a network has free sizes, or a batch, and `format` has none."""
    if network.dynamic and format in FIXED:
        raise RefusedError(
            Fault(
                what=f"{FIXED[format]} files have fixed sizes.",
                at=f"format {format}",
                got=f"free sizes {listed(each.name for each in network.dynamic)}",
                expected="a network without free sizes",
                fix="export it at the largest size, and pad; other formats take free sizes",
            )
        )
    batch = {name: tensor.shape[0] for name, tensor in network.example.items() if tensor.ndim}
    several = [name for name, size in batch.items() if size != 1]
    if several and format == "ncnn":
        raise RefusedError(
            Fault(
                what="ncnn computes one sample at a time.",
                at=f"format {format}, input {several[0]}",
                got=f"a first axis of {batch[several[0]]}",
                expected="1",
                fix="load the network with an example of one sample; other formats take batches",
            )
        )


def check_dynamic_shapes(
    artifact: Artifact, network: Network, calibration: Sequence[Inputs]
) -> None:
    """Runs `artifact` at two other settings of its free sizes and compares it with its network.

    Raises:
        ConversionError: it does not take one of them, or gives something else: exporters freeze a
            size without a word.
    """
    given = calibration[0] if calibration else network.example
    module = copy.deepcopy(network.module).cpu().eval()
    for sizes in other_sizes(given, network.dynamic):
        inputs = resized(given, sizes, network.dynamic)
        told = ", ".join(f"{name} = {size}" for name, size in sizes.items())
        with torch.no_grad():
            wanted = call(module, inputs)
        whole = {name: tensor.shape[0] for name, tensor in inputs.items()}
        ran = run_artifact(artifact, inputs, "local", batch=next(iter(whole.values())))
        if isinstance(ran, Verdict):
            raise ConversionError(_frozen(artifact, told, f"{ran.outcome.value}: {ran.detail}"))
        for name, value in wanted.items():
            found = ran.outputs[name]
            if found.shape != value.shape:
                got = f"output {name} of shape {tuple(found.shape)}, not {tuple(value.shape)}"
                raise ConversionError(_frozen(artifact, told, got))
        # Quantized files are held to half: one repeated sample is not what they were made for.
        floor = SCHEMES[str(artifact.scheme)].sqnr_floor_db
        floor = floor / 2 if SCHEMES[str(artifact.scheme)].calibrated else floor
        found_db = sqnr_db(wanted, ran.outputs)
        if found_db < floor:
            got = f"SQNR of {found_db:.1f} dB there, under {floor:.0f}"
            raise ConversionError(_frozen(artifact, told, got))


def _frozen(artifact: Artifact, told: str, got: str) -> Fault:
    return Fault(
        what=f"The {artifact.format} file does not take a size that was declared free.",
        at=f"{artifact.format} {artifact.scheme}, {told}",
        got=got,
        expected="what the network gives at this size",
        fix="declare the size fixed, or leave this format out for it",
    )


def sqnr_db(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> float:
    """10 log10(sum wanted^2 / sum error^2) over all outputs; inf where all is equal."""
    signal = sum(float((value.double() ** 2).sum()) for value in wanted.values())
    noise = sum(
        float(((value.double() - found[name].double()) ** 2).sum())
        for name, value in wanted.items()
    )
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def failed(who: str, error: Exception, what: str, log: Path) -> EdgekdError:
    """What to raise where `who`, a converter, raised `error` on `what` and printed into `log`."""
    branches = branching(error)
    if branches is not None:
        return branches
    reason = str(error).strip() or type(error).__name__
    place = origin(error, Exportable)
    return ConversionError(
        Fault(
            what=f"{who} failed on {what}.",
            at=f"{place}, log {log}" if place else f"{who} {what}, log {log}",
            got=f"{type(error).__name__}: {_shortened(reason)}"
            + (f" (it printed: {last_lines(log)})" if last_lines(log) else ""),
            expected="a network that the converter takes",
            fix=f"look at the cause in {log}, or leave {what} out for this target",
        )
    )


def _shortened(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    short = " | ".join(lines[:6])
    return short if len(short) <= 600 else short[:600] + " ..."


def samples_digest(samples: Sequence[Inputs]) -> str:
    sha = hashlib.sha256()
    for sample in samples:
        for name, tensor in sample.items():
            sha.update(f"{name}{tuple(tensor.shape)}".encode())
            sha.update(tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()


def _checked(
    network: Network, scheme: str, samples: Sequence[Inputs], method: str | None
) -> Sequence[Inputs]:
    if not uses_samples(scheme, method):
        return ()
    faults = unusable(samples, network.signature.inputs, at="calibration", scheme=scheme)
    if faults:
        raise RecipeError(*faults)
    return samples
