"""The commands that take a network or its files: each a stage alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from edgekd.artifacts.quantization_params import Io
from edgekd.cli.options import AsJson, print_json, say_next
from edgekd.errors import Fault


def export(
    model: Annotated[str, typer.Argument(help="file.py:callable, package:callable, .pt2, ...")],
    format: Annotated[str, typer.Option(help="onnx, openvino, litert, coreml or ncnn.")],
    out: Annotated[Path, typer.Option(help="The artifact goes to OUT/FORMAT-SCHEME/.")],
    scheme: Annotated[
        str,
        typer.Option(
            help="fp32, fp16, bf16, int8, int8-dynamic, int8-weights, int8-int16, int4-weights or "
            "palettized."
        ),
    ] = "fp32",
    method: Annotated[
        str | None,
        typer.Option(help="Of quantizing, such as percentile; the first that suits without it."),
    ] = None,
    weights: Annotated[str | None, typer.Option(help="A .safetensors file.")] = None,
    example: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SHAPE", help="image=1x3x32x32, or ids=1x16:int64; repeatable."),
    ] = None,
    dynamic: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=MIN..MAX@INPUT:AXIS", help="tokens=8..64@ids:1,mask:1."),
    ] = None,
    opset: Annotated[
        int | None, typer.Option(help="Of ONNX: the version of its operators, for an old runtime.")
    ] = None,
    channels_last: Annotated[
        bool | None,
        typer.Option(
            "--channels-last/--channels-first",
            help="Of images; without it, LiteRT's files take them last.",
        ),
    ] = None,
    io: Annotated[
        str,
        typer.Option(help="Of static int8: int8 or uint8 in place of float32 inputs and outputs."),
    ] = "float32",
    calibration: Annotated[
        Path | None, typer.Option(help="Samples by input name, .safetensors or .npz.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a network as one file."""
    from edgekd.cli.parse import parse_example
    from edgekd.cli.result_text import artifact_lines
    from edgekd.conversion.export import export as export_network
    from edgekd.conversion.options import check_exportable
    from edgekd.network.dynamic_shapes import parse_dynamic
    from edgekd.network.load import load_network
    from edgekd.network.sample_files import read_samples

    check_exportable(format, scheme, opset, method, io)
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
        method=method,
        opset=opset,
        channels_last=channels_last,
        io=cast(Io, io),
    )
    if as_json:
        print_json({**artifact.to_json(), "path": str(artifact.path)})
    else:
        for line in artifact_lines(artifact):
            typer.echo(line)
        known = f" --weights {weights}" if weights else ""
        say_next(f"edgekd verify {artifact.path.parent} --against {model}{known} --samples FILE")


def verify(
    artifact: Annotated[Path, typer.Argument(help="The file, or the folder with artifact.json.")],
    against: Annotated[str, typer.Option(help="The network it came from, as for export.")],
    samples: Annotated[Path, typer.Option(help="Real inputs by name, .safetensors or .npz.")],
    weights: Annotated[str | None, typer.Option(help="A .safetensors file.")] = None,
    device: Annotated[str, typer.Option(help="local, or ssh://user@host.")] = "local",
    min_agreement: Annotated[float, typer.Option(min=0, max=1)] = 0.99,
    layers: Annotated[
        bool, typer.Option("--layers", help="Also say at which layer it first diverges.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run an artifact in its own runtime and compare it with the network it came from."""
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
    found = verify_artifact(loaded, network, inputs, device=device, min_agreement=min_agreement)
    looked = []
    if layers:
        from edgekd.verification.divergence import localize

        number = found.worst[0] if found.worst else 0
        looked = localize(loaded, network, inputs[number])
    if as_json:
        print_json({**found.to_json(), "layers": [vars(each) for each in looked]})
    else:
        for line in layer_lines(looked):
            typer.echo(line)
        for line in agreement_lines(found):
            typer.echo(line)
        if found.outcome is Outcome.PASSED:
            say_next(_after_verify(artifact, device, found.evidence))
    if found.outcome is not Outcome.PASSED:
        known = loaded.lineage.get("network_sha256")
        other = known is not None and known != network.weights_digest()
        raise DisagreementError(
            Fault(
                what=f"{artifact} does not agree with {against}.",
                at=str(loaded.path),
                got=found.detail + ("; the network has other weights now" if other else ""),
                expected="the outputs of its network",
                fix="give --weights, the same here and to export: without them a network may be "
                "loaded with new random ones each time"
                if other
                else "look where it begins, with --layers, or try another scheme",
            )
        )


def _after_verify(artifact: Path, device: str, evidence: str) -> str:
    """What to do with an artifact that agrees."""
    if evidence in ("reference", "emulated"):
        return "time it on a device of its own: docs/devices.md says how each is reached"
    return f"edgekd benchmark {artifact}" + ("" if device == "local" else f" --device {device}")
