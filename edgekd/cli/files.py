"""The commands that export a network and verify a file, each a stage alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from edgekd.artifacts.quantization_params import Io
from edgekd.cli.completion import formats, schemes
from edgekd.cli.options import (
    Against,
    ArtifactPath,
    AsJson,
    Device,
    Samples,
    Weights,
    echo,
    print_json,
    say_next,
)
from edgekd.errors import Fault, listed

SchemeName = Annotated[
    str,
    typer.Option(help=f"The numeric precision: {listed(schemes())}.", autocompletion=schemes),
]
Method = Annotated[
    str | None,
    typer.Option(
        help="The quantization method, e.g. percentile. The default is the first method that "
        "suits the network."
    ),
]
Example = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=SHAPE",
        help="The shape of an input: image=1x3x32x32, or ids=1x16:int64. Repeatable.",
    ),
]
Dynamic = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=MIN..MAX@INPUT:AXIS",
        help="A dynamic dimension: tokens=8..64@ids:1,mask:1. Repeatable.",
    ),
]
Opset = Annotated[
    int | None,
    typer.Option(help="The opset of an ONNX file, for an old runtime."),
]
ChannelsLast = Annotated[
    bool | None,
    typer.Option(
        "--channels-last/--channels-first",
        help="The layout of image inputs. The default is the layout of the format.",
    ),
]
IoType = Annotated[
    str,
    typer.Option(help="The type of inputs and outputs of static int8: float32, int8 or uint8."),
]
CalibrationFile = Annotated[
    Path | None,
    typer.Option(help="Calibration samples by input name, in a .safetensors or .npz file."),
]


def export(
    model: Annotated[
        str,
        typer.Argument(help="The network: FILE.py:CALLABLE, PACKAGE:CALLABLE or a .pt2 file."),
    ],
    format: Annotated[
        str,
        typer.Option(help=f"The format: {listed(formats())}.", autocompletion=formats),
    ],
    out: Annotated[
        Path, typer.Option(help="The output folder; the file is in OUT/FORMAT-SCHEME/.")
    ],
    scheme: SchemeName = "fp32",
    method: Method = None,
    weights: Weights = None,
    example: Example = None,
    dynamic: Dynamic = None,
    opset: Opset = None,
    channels_last: ChannelsLast = None,
    io: IoType = "float32",
    calibration: CalibrationFile = None,
    as_json: AsJson = False,
) -> None:
    """Export a network as a file of one format and scheme."""
    from edgekd.cli.parse import parse_example
    from edgekd.cli.result_text import artifact_lines
    from edgekd.conversion.export import export as export_network
    from edgekd.conversion.options import check_exportable
    from edgekd.formats.options import ExportKeywords, ExportOptions
    from edgekd.network.dynamic_shapes import parse_dynamic
    from edgekd.network.load import load_network
    from edgekd.network.sample_files import read_samples

    options: ExportKeywords = {
        "method": method,
        "opset": opset,
        "channels_last": channels_last,
        "io": cast("Io", io),
    }
    check_exportable(format, ExportOptions(scheme=scheme, **options))  # type: ignore[arg-type]
    network = load_network(
        model,
        example=parse_example(example or []),
        weights=weights,
        dynamic=parse_dynamic(dynamic or []),
    )
    samples = read_samples(calibration) if calibration else None
    artifact = export_network(
        network,
        format=format,
        scheme=scheme,
        calibration=samples,
        out=out,
        **options,
    )
    if as_json:
        print_json({**artifact.to_json(), "path": str(artifact.path)})
    else:
        for line in artifact_lines(artifact):
            echo(line)
        given = f" --weights {weights}" if weights else ""
        say_next(f"edgekd verify {artifact.path.parent} --against {model}{given} --samples FILE")


def verify(
    artifact: ArtifactPath,
    against: Against,
    samples: Samples,
    weights: Weights = None,
    device: Device = "local",
    min_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="The lowest agreement that passes.")
    ] = 0.99,
    layers: Annotated[
        bool, typer.Option("--layers", help="Also find the first layer that diverges.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a file in its own runtime and compare its outputs with those of its network."""
    from edgekd.artifacts.artifact import load_artifact
    from edgekd.cli.result_text import agreement_lines, layer_lines
    from edgekd.errors import DisagreementError
    from edgekd.evidence.outcome import Outcome
    from edgekd.network.load import load_network
    from edgekd.network.sample_files import read_samples
    from edgekd.verification.verify import verify as verify_artifact

    loaded = load_artifact(artifact)
    inputs = read_samples(samples, loaded.signature.input_names if loaded.signature else None)
    network = load_network(against, example=inputs[0], weights=weights)
    agreement = verify_artifact(loaded, network, inputs, device=device, min_agreement=min_agreement)
    compared = []
    if layers:
        from edgekd.verification.divergence import localize

        number = agreement.worst[0] if agreement.worst else 0
        compared = localize(loaded, network, inputs[number])
    passed = agreement.outcome is Outcome.PASSED
    if as_json:
        print_json({**agreement.to_json(), "layers": [vars(layer) for layer in compared]})
    else:
        for line in (*layer_lines(compared), *agreement_lines(agreement)):
            echo(line)
        if passed:
            say_next(_after_verify(artifact, device, agreement.evidence))
    if not passed:
        exported = loaded.lineage.get("network_sha256")
        other = exported is not None and exported != network.weights_digest()
        raise DisagreementError(
            Fault(
                what=f"{artifact} does not agree with {against}.",
                at=str(loaded.path),
                got=agreement.detail + ("; the network has other weights now" if other else ""),
                expected="the outputs of its network",
                fix="give the same --weights to export and here; without it a network may start "
                "with new random weights each time"
                if other
                else "find the first layer that diverges with --layers, or try another scheme",
            )
        )


def _after_verify(artifact: Path, device: str, evidence: str) -> str:
    """The next step with a file that agrees with its network."""
    if evidence in ("reference", "emulated"):
        return "benchmark it on a real device; docs/devices.md explains how to reach one"
    return f"edgekd benchmark {artifact}" + ("" if device == "local" else f" --device {device}")
