"""Writes a network as a file of a format, in a scheme."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from edgekd.artifacts.artifact import Artifact, describe, load_artifact, save_card, zipped
from edgekd.artifacts.quantized_fraction import quantized_facts
from edgekd.calibration.checks import unusable
from edgekd.conversion.dynamic_shapes import check_dynamic_shapes, refuse_dynamic_shapes
from edgekd.conversion.exportability import branching, check_sound
from edgekd.conversion.fp16_range import check_fp16_range
from edgekd.conversion.options import check_exportable
from edgekd.data import Inputs
from edgekd.errors import ConversionError, EdgekdError, Fault, RecipeError
from edgekd.formats import find_format
from edgekd.formats.capabilities import member, quantization, takes_channels_last
from edgekd.formats.inspection import has_graph_reader, read_graph, read_weights
from edgekd.formats.options import ExportKeywords, ExportOptions
from edgekd.formats.quantization_methods import suited_method, uses_samples
from edgekd.network.network import Exportable, Network
from edgekd.network.preprocessing import channels_last as turn_channels
from edgekd.network.preprocessing import images_of, to_nhwc
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
    **options: Unpack[ExportKeywords],
) -> Artifact:
    """Writes `network` as a file of `format` in `scheme`, into the folder `out/FORMAT-SCHEME/`.

    Beside the file is its `artifact.json`, beside the folder `FORMAT-SCHEME.log` with all that the
    converter printed. A conversion that fails leaves an earlier artifact as it is.

    Args:
        calibration: inputs by name, batch first, for schemes that measure activation ranges.
        options: fields of `edgekd.formats.options.ExportOptions`, all optional:
            method, a quantization method of the format's `METHODS[scheme]`; without it the first
            that suits the network;
            opset, the version of an ONNX file's operators, for an old runtime;
            channels_last, whether the file takes images as NHWC: float32 inputs of four axes and 1,
            3 or 4 channels; without it, LiteRT files do, where a transpose would come first;
            io, int8 or uint8 in place of float32 inputs and outputs of static int8:
            `artifact.quantization` has their scale and zero point;
            excluded_operators, names of operators of the file that stay in float;
            reduce_range, whether int8 weights use 7 of their bits, which no processor saturates; on
            by default.

    Returns:
        The artifact.

    Raises:
        RecipeError: the format or scheme is unknown, the calibration is missing or does not fit,
            or no file can represent the network.
        RefusedError: the format cannot be written in this scheme here, or the network has values
            outside the scheme's range.
        MissingPackageError: the format's packages are not installed.
        ConversionError: the converter failed.
    """
    chosen = ExportOptions(scheme=scheme, **options)  # type: ignore[arg-type]
    check_exportable(format, chosen)
    samples = _checked(network, format, chosen, calibration or ())
    check_fp16_range(network, format, scheme, calibration or [dict(network.example)])
    folder = Path(out) / f"{format}-{scheme}"
    log = folder.with_name(f"{folder.name}.log")
    log.unlink(missing_ok=True)
    with written_atomically(folder) as draft:
        convert(network, format, samples, draft, chosen, log=log)
    return load_artifact(folder)


def convert(
    network: Network,
    format: str,
    calibration: Sequence[Inputs],
    folder: Path,
    options: ExportOptions,
    *,
    log: Path | None = None,
) -> Artifact:
    """Writes `network` into `folder`, and what the converter prints into `log`.

    Raises:
        RecipeError: no file can represent the network; see `check_sound`.
        ConversionError: the converter failed; the error has its last lines, the log all of them.
    """
    check_sound(network)
    refuse_dynamic_shapes(network, format)
    images = channels_last_inputs(network, format, options.channels_last)
    if images:
        network = turn_channels(network, images)
        calibration = [to_nhwc(sample, images) for sample in calibration]
    module = find_format(format)
    folder.mkdir(parents=True, exist_ok=True)
    log = log or folder / LOG
    path = folder / f"{MODEL}{module.SUFFIX}"
    method = options.method or suited_method(network, format, options.scheme)
    options = replace(options, method=method)
    try:
        with output_to(log):
            description = module.convert(network, calibration, path, options)
    except EdgekdError:
        raise
    except Exception as error:
        raise failed(f"The converter to {format}", error, options.scheme, log) from error
    uses = uses_samples(format, options.scheme, method)
    lineage: dict[str, Any] = {
        # An exported program that stands for a network carries that network's digest.
        "network_sha256": network.weights_digest(),
        **network.lineage,
        "method": description,
        "calibration": samples_digest(calibration) if uses else None,
        "tools": tool_versions(module.PACKAGES),
        **_option_facts(options),
        **({"channels_last": list(images)} if images else {}),
        **_file_facts(path, format, options),
    }
    if network.dynamic:
        lineage["free"] = [dim.to_json() for dim in network.dynamic]
        shapes = {name: list(tensor.shape) for name, tensor in network.example.items()}
        lineage["example_shapes"] = shapes
    artifact = describe(path, format, options.scheme, network.signature, lineage, zipped(path))
    if network.dynamic:
        check_dynamic_shapes(artifact, network, calibration)
    save_card(artifact)
    return artifact


def _option_facts(options: ExportOptions) -> dict[str, Any]:
    """What an artifact's card says of the quantizer."""
    if options.method is None:
        return {}
    bits = 7 if options.reduce_range else 8
    excluded = list(options.excluded_operators)
    return {"quantizer": {"method": options.method, "keep": excluded, "weight_bits": bits}}


def _file_facts(path: Path, format: str, options: ExportOptions) -> dict[str, Any]:
    """What an artifact's card says of the file at `path`, by the file itself."""
    facts: dict[str, Any] = {}
    if options.io != "float32":
        params = quantization(format, path)
        facts["quantization"] = {name: vars(each) for name, each in params.items()}
    opset_of = member(format, "opset_of", None)
    if opset_of is not None:
        facts["opset"] = opset_of(path)
    if has_graph_reader(format):
        graph = read_graph(path, format)
        facts |= quantized_facts(graph, read_weights(path, format), options.scheme)
        facts["operators"] = graph.operators
        facts["transposes"] = graph.transposes
    return facts


def channels_last_inputs(
    network: Network, format: str, channels_last: bool | None
) -> tuple[str, ...]:
    """The inputs that a file of `format` takes as NHWC.

    Args:
        channels_last: what was asked for; None: the format's default.

    Raises:
        RecipeError: it was asked for, and no input is an image of static shape.
    """
    if channels_last is False or (channels_last is None and not takes_channels_last(format)):
        return ()
    images = images_of(network)
    if channels_last and (network.dynamic or not images):
        raise RecipeError(
            Fault(
                what="The file cannot take its images as NHWC.",
                at="channels_last",
                got="dynamic shapes"
                if network.dynamic
                else "no input is an image with channels first",
                expected="float32, static shapes, batch, 1, 3 or 4 channels, height, width",
                fix="leave channels_last out; for an input with embedded preprocessing, set its "
                "layout",
            )
        )
    return images


def failed(who: str, error: Exception, what: str, log: Path) -> EdgekdError:
    """The error to raise where the converter `who` raised `error` on `what` and printed into
    `log`."""
    branches = branching(error)
    if branches is not None:
        return branches
    reason = str(error).strip() or type(error).__name__
    location = origin(error, Exportable)
    printed = last_lines(log)
    return ConversionError(
        Fault(
            what=f"{who} failed on {what}.",
            at=f"{location}, log {log}" if location else f"{who} {what}, log {log}",
            got=f"{type(error).__name__}: {_shortened(reason)}"
            + (f" (it printed: {printed})" if printed else ""),
            expected="a network that the converter takes",
            fix=f"look at the cause in {log}, or leave {what} out for this target",
        )
    )


def _shortened(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    short = " | ".join(lines[:6])
    return short if len(short) <= 600 else short[:600] + " ..."


def samples_digest(samples: Sequence[Inputs]) -> str:
    """The SHA-256 of the names, shapes and values of `samples`."""
    sha = hashlib.sha256()
    for sample in samples:
        for name, tensor in sample.items():
            sha.update(f"{name}{tuple(tensor.shape)}".encode())
            sha.update(tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()


def _checked(
    network: Network, format: str, options: ExportOptions, samples: Sequence[Inputs]
) -> Sequence[Inputs]:
    """`samples` where the file is written with them, else none."""
    if not uses_samples(format, options.scheme, options.method):
        return ()
    inputs = network.signature.inputs
    faults = unusable(samples, inputs, at="calibration", scheme=options.scheme)
    if faults:
        raise RecipeError(*faults)
    return samples
