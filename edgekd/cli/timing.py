"""The command that benchmarks files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekd.cli.options import AsJson, Device, Weights, echo, print_json, say_next
from edgekd.errors import Fault

BudgetLimits = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="A limit: latency_p90_ms=5, size_bytes=500000 and others. Repeatable.",
    ),
]
SampleFile = Annotated[
    Path | None,
    typer.Option(help="Real inputs by name, in a .safetensors or .npz file."),
]
AgainstFirst = Annotated[
    str | None,
    typer.Option(help="The network that each file must agree with before it is measured."),
]
GoldenBundle = Annotated[
    Path | None,
    typer.Option(
        help="A bundle whose golden vectors each file must reproduce before it is measured."
    ),
]
JunitFile = Annotated[
    Path | None, typer.Option(help="Also write the verdicts to this file as JUnit XML.")
]
SummaryFile = Annotated[
    Path | None, typer.Option(help="Also write the figures to this file as a Markdown table.")
]


def benchmark(
    artifacts: Annotated[
        list[Path],
        typer.Argument(help="The files. Files of one runtime are measured interleaved."),
    ],
    device: Device = "local",
    threads: Annotated[int, typer.Option(min=1, help="The threads of the runtime.")] = 1,
    budget: BudgetLimits = None,
    quick: Annotated[
        bool, typer.Option(help="Measure in one short process, for a first impression.")
    ] = False,
    samples: SampleFile = None,
    against: AgainstFirst = None,
    weights: Weights = None,
    golden: GoldenBundle = None,
    junit: JunitFile = None,
    summary: SummaryFile = None,
    as_json: AsJson = False,
) -> None:
    """Measure the latency of files on a device, and judge them by a budget."""
    from edgekd.artifacts.artifact import load_artifact
    from edgekd.benchmarking.benchmark import time_all
    from edgekd.cli.parse import parse_budget
    from edgekd.cli.progress import Shown
    from edgekd.data import joined
    from edgekd.evidence.budget import judge_budget
    from edgekd.evidence.outcome import Verdict
    from edgekd.network.sample_files import read_samples
    from edgekd.pipeline.correctness_check import disagreement
    from edgekd.recipe.benchmark import QUICK, THOROUGH

    limits = parse_budget(budget or [])
    _check_options(samples, against, weights)
    loaded = [load_artifact(path) for path in artifacts]
    inputs = read_samples(samples) if samples else []
    loaded = _laid_out(loaded, against, weights, inputs) if against else loaded
    with Shown() as progress:
        wrong: dict[int, Verdict] = {}
        for number, artifact in enumerate(loaded if against or golden else ()):
            progress("check", str(artifact.path), number + 1, len(loaded))
            verdict = disagreement(
                artifact, device, samples=inputs, against=against, weights=weights, golden=golden
            )
            wrong |= {number: verdict} if verdict else {}
        right = [artifact for number, artifact in enumerate(loaded) if number not in wrong]
        timed = iter(
            time_all(
                right,
                device=device,
                threads=threads,
                inputs=joined(inputs) if inputs else None,
                protocol=QUICK if quick else THOROUGH,
                budget=limits,
                progress=progress,
            )
        )
    measured = [wrong[n] if n in wrong else next(timed) for n in range(len(loaded))]
    verdicts = [
        result if isinstance(result, Verdict) else judge_budget(artifact.size_bytes, result, limits)
        for artifact, result in zip(loaded, measured, strict=True)
    ]
    _write_summaries(junit, summary, loaded, measured, verdicts)
    if as_json:
        results = zip(loaded, measured, verdicts, strict=True)
        print_json([_document(*result, quick) for result in results])
    else:
        _print(loaded, measured, verdicts)
    _raise_worst(loaded, verdicts)
    if not as_json:
        say_next(_after_benchmark(artifacts[0], quick=quick, judged=bool(budget)))


def _laid_out(
    artifacts: Sequence[Any], against: str, weights: str | None, inputs: Sequence[Any]
) -> list[Any]:
    """Artifacts that state the layout of their images, also those without an artifact.json."""
    from edgekd.formats.capabilities import laid_out, read_quantization
    from edgekd.network.load import load_network

    network = load_network(against, example=inputs[0], weights=weights)
    return [laid_out(read_quantization(artifact), network) for artifact in artifacts]


def _after_benchmark(artifact: Path, *, quick: bool, judged: bool) -> str:
    """The next step with figures."""
    if quick:
        return "run it without --quick for reliable figures"
    if not judged:
        return f"edgekd benchmark {artifact} --budget latency_p90_ms=MS judges the file"
    return "edgekd init writes a recipe, which finds the best file within a budget"


def _check_options(samples: Path | None, against: str | None, weights: str | None) -> None:
    """Refuses an option without the option that it needs."""
    from edgekd.errors import RecipeError

    for value, name, needed, other in (
        (against, "--against", "--samples", samples),
        (weights, "--weights", "--against", against),
    ):
        if value and not other:
            raise RecipeError(
                Fault(
                    what=f"{name} needs {needed}.",
                    at=name,
                    got=f"{name} {value} without {needed}",
                    expected="the network and real inputs, to compare the file with its network",
                    fix=f"add {needed}, or remove {name}",
                )
            )


def _document(artifact: Any, measured: Any, verdict: Any, quick: bool) -> dict[str, Any]:
    from edgekd.evidence.outcome import Verdict

    return {
        "path": str(artifact.path),
        "sha256": artifact.sha256,
        "size_bytes": artifact.size_bytes,
        "outcome": verdict.outcome.value,
        "detail": verdict.detail,
        "quick": quick,
        "measurement": None if isinstance(measured, Verdict) else measured.to_json(),
    }


def _print(artifacts: Sequence[Any], measured: Sequence[Any], verdicts: Sequence[Any]) -> None:
    from edgekd.cli.benchmark_text import comparison_lines, measurement_lines
    from edgekd.evidence.measurement import Measurement

    for artifact, result, verdict in zip(artifacts, measured, verdicts, strict=True):
        if isinstance(result, Measurement):
            lines = measurement_lines(artifact.path, result, verdict)
        else:
            lines = iter(
                [f"{artifact.path}: {verdict.outcome.value}, not measured: {verdict.detail}"]
            )
        for line in lines:
            echo(line)
    for artifact, result in zip(artifacts, measured, strict=True):
        if isinstance(result, Measurement):
            for line in comparison_lines(artifact.path, result):
                echo(line)


def _write_summaries(
    junit: Path | None,
    summary: Path | None,
    artifacts: Sequence[Any],
    measured: Sequence[Any],
    verdicts: Sequence[Any],
) -> None:
    """Writes the files that CI systems show."""
    from edgekd.evidence.candidate import Candidate
    from edgekd.evidence.measurement import Measurement
    from edgekd.report import junit as reports
    from edgekd.system.files import write_text

    rows = [
        Candidate(
            str(artifact.path),
            artifact.format,
            artifact.scheme or "as it is",
            verdict.outcome,
            verdict.detail,
            artifact,
            measurement=result if isinstance(result, Measurement) else None,
        )
        for artifact, result, verdict in zip(artifacts, measured, verdicts, strict=True)
    ]
    title = "edgekd benchmark"
    if junit is not None:
        write_text(junit, reports.junit(title, reports.cases(rows, {})))
    if summary is not None:
        write_text(summary, reports.summary(title, None, rows, {}))


def _raise_worst(artifacts: Sequence[Any], verdicts: Sequence[Any]) -> None:
    """Raises the failures, with the lowest exit code among them."""
    from edgekd.errors import ERRORS
    from edgekd.evidence.target_outcome import FIXES

    codes = {verdict.outcome.exit_code for verdict in verdicts} - {0}
    if not codes:
        return
    raise ERRORS[min(codes)](
        *(
            Fault(
                what=f"{artifact.path} cannot ship: {verdict.outcome.value}.",
                at=str(artifact.path),
                got=verdict.detail,
                expected="the outputs of its network, and every limit met with confidence",
                fix=FIXES[verdict.outcome],
            )
            for artifact, verdict in zip(artifacts, verdicts, strict=True)
            if verdict.outcome.exit_code
        )
    )
