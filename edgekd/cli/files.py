"""The commands that take a network or its files: each a stage alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekd.cli.words import AsJson, print_json
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
    calibration: Annotated[
        Path | None, typer.Option(help="Samples by input name, .safetensors or .npz.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a network as one file."""
    from edgekd.conversion import check_exportable
    from edgekd.conversion import export as export_network
    from edgekd.network import load_network
    from edgekd.samples import parse_example, read_samples
    from edgekd.sizes import parse_dynamic

    check_exportable(format, scheme, opset, method)
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
    )
    if as_json:
        print_json({**artifact.to_json(), "path": str(artifact.path)})
    else:
        typer.echo(f"{artifact.path}  {artifact.size_bytes} bytes  sha256 {artifact.sha256}")


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
    from edgekd.artifact import load_artifact
    from edgekd.errors import DisagreementError
    from edgekd.evidence import Outcome
    from edgekd.network import load_network
    from edgekd.samples import read_samples
    from edgekd.stages.verify import verify as verify_artifact
    from edgekd.text import layer_lines

    loaded, inputs = load_artifact(artifact), read_samples(samples)
    network = load_network(against, example=inputs[0], weights=weights)
    found = verify_artifact(loaded, network, inputs, device=device, min_agreement=min_agreement)
    looked = []
    if layers:
        from edgekd.localization import localize

        number = found.worst[0] if found.worst else 0
        looked = localize(loaded, network, inputs[number])
    if as_json:
        print_json({**found.to_json(), "layers": [vars(each) for each in looked]})
    else:
        for line in layer_lines(looked):
            typer.echo(line)
        top1 = found.top1_agreement_frac
        agree = "" if top1 is None else f"  top-1 agreement {top1:.4f}"
        typer.echo(
            f"{found.outcome.value}: SQNR {found.sqnr_db:.1f} dB{agree}  "
            f"largest error {found.max_abs_error:.3g}  on {found.sample_count} samples"
        )
    if found.outcome is not Outcome.PASSED:
        raise DisagreementError(
            Fault(
                what=f"{artifact} does not agree with {against}.",
                at=str(loaded.path),
                got=found.detail,
                expected="the outputs of its network",
                fix="check that --against and --weights are what it was exported from, or try "
                "another scheme",
            )
        )


def benchmark(
    artifacts: Annotated[
        list[Path], typer.Argument(help="Files; those of one runtime interleave.")
    ],
    device: Annotated[str, typer.Option(help="local, or ssh://user@host.")] = "local",
    threads: Annotated[int, typer.Option(min=1)] = 1,
    budget: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="latency_p90_ms=5, size_bytes=500000, ..."),
    ] = None,
    quick: Annotated[bool, typer.Option(help="One short process: a first impression.")] = False,
    junit: Annotated[
        Path | None, typer.Option(help="Also write the verdicts there as JUnit XML.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time artifacts where they will run, and hold them against a budget."""
    from edgekd.artifact import load_artifact
    from edgekd.samples import parse_budget
    from edgekd.stages.benchmark import QUICK, THOROUGH, benchmark_all, judge
    from edgekd.text import measurement_lines

    limits = parse_budget(budget or [])
    loaded = [load_artifact(path) for path in artifacts]
    measured = benchmark_all(
        loaded, device=device, threads=threads, protocol=QUICK if quick else THOROUGH
    )
    verdicts = [judge(a.size_bytes, m, limits) for a, m in zip(loaded, measured, strict=True)]
    if junit is not None:
        _write_junit(junit, loaded, measured, verdicts)
    if as_json:
        print_json(
            [
                {
                    "path": str(a.path),
                    "sha256": a.sha256,
                    "size_bytes": a.size_bytes,
                    "outcome": v.outcome.value,
                    "detail": v.detail,
                    "quick": quick,
                    "measurement": m.to_json(),
                }
                for a, m, v in zip(loaded, measured, verdicts, strict=True)
            ]
        )
    else:
        for a, m, v in zip(loaded, measured, verdicts, strict=True):
            for line in measurement_lines(a, m, v, quick=quick):
                typer.echo(line)
    _raise_worst(loaded, verdicts)


def _write_junit(
    path: Path, artifacts: Sequence[Any], measured: Sequence[Any], verdicts: Sequence[Any]
) -> None:
    from edgekd.junit import Case, junit
    from edgekd.store import write_text

    found = [
        Case(
            suite="edgekd benchmark",
            name=str(artifact.path),
            outcome=verdict.outcome.value,
            detail=verdict.detail,
            failed=verdict.outcome.exit_code != 0,
            time_s=measurement.percentile_ms(0.5).value / 1e3,
        )
        for artifact, measurement, verdict in zip(artifacts, measured, verdicts, strict=True)
    ]
    write_text(path, junit("edgekd benchmark", found))


def _raise_worst(artifacts: Sequence[Any], verdicts: Sequence[Any]) -> None:
    from edgekd.errors import ERRORS

    codes = {verdict.outcome.exit_code for verdict in verdicts} - {0}
    if not codes:
        return
    raise ERRORS[min(codes)](
        *(
            Fault(
                what=f"{artifact.path} does not keep the budget: {verdict.outcome.value}.",
                at=str(artifact.path),
                got=verdict.detail,
                expected="every limit kept for sure",
                fix="widen the budget, try another scheme, or measure on a quieter machine",
            )
            for artifact, verdict in zip(artifacts, verdicts, strict=True)
            if verdict.outcome.exit_code
        )
    )
