"""Words on a command line to calls of this package, and what came of them to text.

The only file that prints or exits. Results go to stdout, everything else to stderr. Nothing heavy
is imported before a command needs it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.errors import EdgekdError, Fault, InternalError, RecipeError, listed, nearest

if TYPE_CHECKING:
    from rich.progress import Progress

    from edgekd.evidence import Row
    from edgekd.pipeline import Plan, RunResult

app = typer.Typer(
    name="edgekd",
    help="From a trained teacher to verified, measured model files for phones, boards and CPUs.",
    no_args_is_help=True,
    add_completion=False,
    # rich's help and tracebacks cost as much time as all else `edgekd --help` does.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_printed: list[bool] = []
"""Not empty once a JSON document is on stdout: there is one, also where a command stops early."""

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Put over the recipe.")
]


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.")],
    out: Annotated[Path, typer.Option(help="Where run folders go.")] = Path("runs"),
    until: Annotated[str | None, typer.Option(help="The last stage to do.")] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Do what a recipe says: from its teacher to an artifact for every target.

    A second run does only what changed. Exit codes: 0 all targets passed, 2 the recipe is wrong,
    3 a target refuses it, 4 a package is missing, 5 a converter failed, 6 a device is unreachable,
    7 an artifact disagrees, 8 a budget is missed, 9 a budget is undecided, 1 a bug.
    """
    with _progress() as tell:
        tell("load", "edgekd")
        from edgekd.pipeline import failure
        from edgekd.pipeline import run as run_recipe

        result = run_recipe(recipe, out, until=until, settings=settings or [], tell=tell)
    if as_json:
        _print_json(result.to_json())
    else:
        _print_result(result)
    error = failure(result)
    if error is not None:
        raise error


@app.command()
def check(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.")],
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Validate a recipe, resolve what it names, find what a target refuses; no work."""
    from edgekd.pipeline import check as check_recipe

    plan = check_recipe(recipe, settings or [])
    if as_json:
        _print_json(
            {
                "name": plan.recipe.name,
                "stages": list(plan.stages),
                "rows": [row.to_json() for row in plan.rows],
            }
        )
    else:
        _print_plan(recipe, plan)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="file.py:callable, package:callable, .pt2, ...")],
    format: Annotated[str, typer.Option(help="onnx, openvino, litert or coreml.")],
    out: Annotated[Path, typer.Option(help="The artifact goes to OUT/FORMAT-SCHEME/.")],
    scheme: Annotated[str, typer.Option(help="fp32, fp16 or int8.")] = "fp32",
    weights: Annotated[str | None, typer.Option(help="A .safetensors file.")] = None,
    example: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SHAPE", help="image=1x3x32x32, or ids=1x16:int64; repeatable."),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Samples by input name, .safetensors or .npz.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a network as one file."""
    from edgekd.network import load_network
    from edgekd.samples import parse_example, read_samples
    from edgekd.stages.export import check_exportable
    from edgekd.stages.export import export as export_network

    check_exportable(format, scheme)
    network = load_network(model, example=parse_example(example or []), weights=weights)
    samples = read_samples(calibration) if calibration else None
    artifact = export_network(network, format=format, scheme=scheme, calibration=samples, out=out)
    if as_json:
        _print_json({**artifact.to_json(), "path": str(artifact.path)})
    else:
        typer.echo(f"{artifact.path}  {artifact.size_bytes} bytes  sha256 {artifact.sha256}")


@app.command()
def verify(
    artifact: Annotated[Path, typer.Argument(help="The file, or the folder with artifact.json.")],
    against: Annotated[str, typer.Option(help="The network it came from, as for export.")],
    samples: Annotated[Path, typer.Option(help="Real inputs by name, .safetensors or .npz.")],
    weights: Annotated[str | None, typer.Option(help="A .safetensors file.")] = None,
    device: Annotated[str, typer.Option(help="local, or ssh://user@host.")] = "local",
    min_agreement: Annotated[float, typer.Option(min=0, max=1)] = 0.99,
    as_json: AsJson = False,
) -> None:
    """Run an artifact in its own runtime and compare it with the network it came from."""
    from edgekd.artifact import load_artifact
    from edgekd.errors import DisagreementError
    from edgekd.evidence import Outcome
    from edgekd.network import load_network
    from edgekd.samples import read_samples
    from edgekd.stages.verify import verify as verify_artifact

    loaded, inputs = load_artifact(artifact), read_samples(samples)
    network = load_network(against, example=inputs[0], weights=weights)
    found = verify_artifact(loaded, network, inputs, device=device, min_agreement=min_agreement)
    if as_json:
        _print_json(found.to_json())
    else:
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


@app.command()
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
    as_json: AsJson = False,
) -> None:
    """Time artifacts where they will run, and hold them against a budget."""
    from edgekd.artifact import load_artifact
    from edgekd.samples import parse_budget
    from edgekd.stages.benchmark import QUICK, Protocol, benchmark_all, judge

    limits = parse_budget(budget or [])
    loaded = [load_artifact(path) for path in artifacts]
    measured = benchmark_all(
        loaded, device=device, threads=threads, protocol=QUICK if quick else Protocol()
    )
    verdicts = [judge(a.size_bytes, m, limits) for a, m in zip(loaded, measured, strict=True)]
    if as_json:
        _print_json(
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
        _print_measurements(loaded, measured, verdicts, quick)
    _raise_worst(loaded, verdicts)


@app.command()
def targets(
    name: Annotated[str | None, typer.Argument(help="One profile; without it, all.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the devices artifacts can be made for, or show one with its facts and their sources."""
    from edgekd.scheme import SCHEMES
    from edgekd.target import load_target, target_names

    found = [load_target(each) for each in ([name] if name else target_names())]
    if as_json:
        from dataclasses import asdict

        _print_json(asdict(found[0]) if name else [asdict(target) for target in found])
        return
    for target in found:
        typer.echo(
            f"{target.name:24} {target.format:9} {' '.join(target.schemes):16} {target.description}"
        )
    if name:
        target = found[0]
        typer.echo(f"  machine {target.machine}, {target.threads} thread(s), {target.accelerator}")
        typer.echo(f"  device  {target.device or 'none at hand: give one in the recipe'}")
        for scheme in SCHEMES:
            reason = target.refusal(scheme)
            if reason:
                typer.echo(f"  refuses {scheme}: {reason}")
        for fact, known in target.facts.items():
            date = f", {known.date}" if known.date else ""
            typer.echo(f"  {fact}: {known.value}\n      source: {known.source}{date}")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what is installed, what works, and how to mend what does not."""
    from edgekd.doctor import examine

    findings = examine()
    if as_json:
        _print_json([vars(finding) for finding in findings])
        return
    for finding in findings:
        mark = "ok     " if finding.works else "missing"
        typer.echo(f"{mark} {finding.name:10} {finding.told}")
        if finding.fix:
            typer.echo(f"        fix: {finding.fix}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of a recipe, for editors."""
    from edgekd.recipe import Recipe

    _print_json(Recipe.model_json_schema())


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


def _print_json(document: Any) -> None:
    _printed.append(True)
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def _console() -> Any:
    from rich.console import Console

    # A table is as wide as its contents where nobody looks at it.
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def _print_result(result: RunResult) -> None:
    from rich.table import Table

    console = _console()
    if result.reused:
        stages = dict.fromkeys(name.partition("/")[0] for name in result.reused)
        counted = [f"{name} ({sum(n.startswith(name) for n in result.reused)})" for name in stages]
        console.print(f"reused from earlier runs: {', '.join(counted)}")
    for role, score in (("teacher", result.teacher), ("student", result.student)):
        if score:
            console.print(
                f"{role}: {result.metric} {score.metric:.4f} on test, "
                f"{score.parameters:,} parameters, {score.macs:,} MACs"
            )
    table = Table(title=f"{result.name}: {result.folder}", title_justify="left")
    for name in ("target", "scheme", "outcome", result.metric, "agree", "SQNR dB", "bytes"):
        table.add_column(
            name, justify="left" if name in ("target", "scheme", "outcome") else "right"
        )
    for name in ("p50 ms", "p90 ms", "time / fp32"):
        table.add_column(name, justify="right")
    table.add_column("ships")
    last = None
    for row in result.rows:
        if last not in (None, row.target):
            table.add_section()
        choice = result.chosen.get(row.target)
        ships = "ships" if choice and choice.scheme == row.scheme else ""
        table.add_row(*_cells(row, row.target if row.target != last else ""), ships)
        last = row.target
    console.print(table)
    for name, choice in result.chosen.items():
        console.print(f"{name}: {choice.why}")
    for row in result.rows:
        if row.detail:
            console.print(f"  {row.target} {row.scheme}: {row.detail}", soft_wrap=True)
    console.print(_next_step(result), soft_wrap=True)


def _cells(row: Row, target: str) -> list[str]:
    agreement, measurement = row.agreement, row.measurement
    top1 = agreement.top1_agreement_frac if agreement else None
    metric = agreement.metric if agreement else None
    ratio = measurement.ratio if measurement else None
    return [
        target,
        row.scheme,
        row.outcome.value if row.outcome else "",
        f"{metric:.4f}" if metric is not None else "",
        f"{top1:.4f}" if top1 is not None else "",
        f"{agreement.sqnr_db:.1f}" if agreement else "",
        f"{row.artifact.size_bytes:,}" if row.artifact else "",
        f"{measurement.percentile_ms(0.5).value:.4f}" if measurement else "",
        f"{measurement.percentile_ms(0.9).value:.4f}" if measurement else "",
        f"{ratio.value:.2f}" if ratio else "",
    ]


def _next_step(result: RunResult) -> str:
    if result.until:
        return (
            f"stopped after {result.until}; go on without --until: what is done is not done again"
        )
    if result.passed:
        return f"every required target passed; the evidence: {result.folder / 'result.json'}"
    return f"not every required target passed; the evidence: {result.folder / 'result.json'}"


def _print_plan(path: Path, plan: Plan) -> None:
    console = _console()
    console.print(f"{plan.recipe.name} {plan.recipe.version}: {' -> '.join(plan.stages)}")
    for goal in plan.goals:
        rows = [row for row in plan.rows if row.target == goal.target.name]
        tries = [row.scheme for row in rows if row.open]
        limits = {key: value for key, value in vars(goal.budget).items() if value is not None}
        told = ", ".join(f"{key} {value:g}" for key, value in limits.items()) or "no budget"
        console.print(f"  {goal.target.name}: {', '.join(tries) or 'nothing'}; {told}")
        where = goal.target.device or "this host, standing in: its latency stays undecided"
        console.print(f"    runs on {where}{'' if goal.required else '; not required'}")
        for row in rows:
            if not row.open:
                console.print(f"    {row.scheme}: {row.detail}", soft_wrap=True)
    console.print(f"next: edgekd run {path}")


def _print_measurements(
    artifacts: Sequence[Any], measured: Sequence[Any], verdicts: Sequence[Any], quick: bool
) -> None:
    for artifact, found, verdict in zip(artifacts, measured, verdicts, strict=True):
        p50, p90 = found.percentile_ms(0.5), found.percentile_ms(0.9)
        ratio = f"  {found.ratio.value:.2f} times the first's" if found.ratio else ""
        memory = f"{found.peak_memory_bytes:,} bytes" if found.peak_memory_bytes else "not told"
        typer.echo(
            f"{artifact.path}: {verdict.outcome.value}  p50 {p50.value:.4f} ms  "
            f"p90 {p90.value:.4f} ms ({p90.low:.4f} to {p90.high:.4f}){ratio}\n"
            f"  load {found.init_ms:.1f} ms  first {found.first_ms:.2f} ms  peak memory {memory}  "
            f"{len(found.samples_ms)} samples in {len(found.samples_ns)} process(es)"
            f"{'' if found.steady else '  NOT STEADY: the last third is judged'}"
            f"{'  quick: a first impression' if quick else ''}"
        )


class _progress:
    """Bars on a terminal, a line a stage where there is none; on stderr either way."""

    def __init__(self) -> None:
        # A copy of stderr: converters' output is redirected to the log while they run.
        self.stream = os.fdopen(os.dup(2), "w", encoding="utf-8", buffering=1)
        self.progress: Progress | None = None
        self.tasks: dict[str, Any] = {}
        self.last = ""

    def __enter__(self) -> Callable[..., None]:
        if self.stream.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                SpinnerColumn,
                TextColumn,
                TimeRemainingColumn,
            )

            self.progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description:10}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[item]}"),
                console=Console(file=self.stream),
            )
            self.progress.start()
            return self.draw
        return self.write

    def __exit__(self, *error: object) -> None:
        if self.progress:
            self.progress.stop()
        self.stream.close()

    def draw(self, stage: str, item: str, done: int = 0, total: int = 0) -> None:
        assert self.progress is not None
        if stage not in self.tasks:
            for task in self.tasks.values():
                known = self.progress.tasks[task]
                self.progress.update(task, completed=known.total or 1, total=known.total or 1)
            self.tasks[stage] = self.progress.add_task(stage, total=total or None, item=item)
        self.progress.update(self.tasks[stage], completed=done, total=total or None, item=item)

    def write(self, stage: str, item: str, done: int = 0, total: int = 0) -> None:
        tenths = total > 20 and done % max(1, total // 10)
        if not item or (stage == self.last and tenths):
            return
        self.last = stage
        count = f" {done}/{total}" if total else ""
        self.stream.write(f"{stage}{count}: {item}\n")


def _usage(error: Any) -> RecipeError:
    """A fault of the command line itself, told like every other."""
    context = error.ctx
    command = context.command_path if context else "edgekd"
    known = list(getattr(context.command, "commands", {})) if context else []
    options = [name for entry in (context.command.params if context else []) for name in entry.opts]
    got = " ".join(sys.argv[1:]) or "nothing"
    wrong = next((word for word in sys.argv[1:] if word not in known), "")
    close = nearest(wrong, known or options) if wrong else None
    return RecipeError(
        Fault(
            what=error.format_message(),
            at=command,
            got=got,
            expected=listed(known) if known else f"the arguments that {command} --help lists",
            fix=f"did you mean {close!r}?" if close else f"see: {command} --help",
        )
    )


def main() -> None:
    """The program `edgekd`; it always ends by `sys.exit`."""
    from typer._click.exceptions import UsageError  # typer carries its own copy of click

    try:
        sys.exit(app(standalone_mode=False))
    except EdgekdError as error:
        _fail(error)
    except UsageError as error:
        _fail(_usage(error))
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("\nstopped; the same command goes on where it was\n")
        sys.exit(130)
    except Exception as error:  # noqa: BLE001  a bug is told like every other stop
        import traceback

        traceback.print_exc()
        _fail(
            InternalError(
                Fault(
                    what="edgekd stopped on an error of its own.",
                    at="the traceback above",
                    got=f"{type(error).__name__}: {error}",
                    expected="a result, or a message that says what is wrong with the input",
                    fix="report it with the traceback and the output of: edgekd doctor --json",
                )
            )
        )


def _fail(error: EdgekdError) -> None:
    if "--json" in sys.argv and not _printed:
        faults = [vars(fault) for fault in error.faults]
        _print_json({"passed": False, "exit_code": error.exit_code, "faults": faults})
    sys.stderr.write(f"{error}\n")
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
