"""Words on a command line to calls of this package, and what came of them to text.

The only file that prints or exits. Results go to stdout, everything else to stderr. Nothing heavy
is imported before a command needs it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekd.errors import EdgekdError, Fault, InternalError, RecipeError
from edgekd.usage import usage_fault

app = typer.Typer(
    name="edgekd",
    help="From a trained teacher to verified, measured model files for phones, boards and CPUs.",
    no_args_is_help=True,
    add_completion=False,
    # rich's help and tracebacks cost as much time as all else `edgekd --help` does.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

INTERRUPTED = 130
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
    from edgekd.progress import Shown
    from edgekd.text import after_table, before_table, table

    with Shown() as tell:
        tell("load", "edgekd")
        from edgekd.pipeline import failure
        from edgekd.pipeline import run as run_recipe

        result = run_recipe(recipe, out, until=until, settings=settings or [], tell=tell)
    if os.environ.get("RANK", "0") != "0":  # torchrun's, where this is not the first process
        return
    if as_json:
        _print_json(result.to_json())
    else:
        console = _console()
        for part in (*before_table(result), table(result), *after_table(result)):
            console.print(part, soft_wrap=isinstance(part, str))
    error = failure(result)
    if error is not None:
        raise error


@app.command()
def check(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.")],
    settings: Settings = None,
    lint: Annotated[
        bool, typer.Option("--lint", help="Also convert the untrained student.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Validate a recipe, resolve what it names, find what a target refuses; no work.

    With --lint it also converts the untrained student for every target, which takes seconds, and
    says which operators will fall back, be unrolled or be refused there.
    """
    from edgekd.plan import check as check_recipe
    from edgekd.text import plan_lines, preview_lines

    plan = check_recipe(recipe, settings or [])
    previewed = None
    if lint:
        from edgekd.preview import preview
        from edgekd.progress import Shown

        with Shown() as tell:
            previewed = preview(plan, tell)
    if as_json:
        _print_json(
            {
                "name": plan.recipe.name,
                "stages": list(plan.stages),
                "rows": [row.to_json() for row in plan.rows],
                "lint": [row.to_json() for row in previewed] if previewed is not None else None,
            }
        )
    else:
        for line in (*preview_lines(previewed), *plan_lines(recipe, plan)):
            typer.echo(line)


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
    from edgekd.conversion import check_exportable
    from edgekd.conversion import export as export_network
    from edgekd.network import load_network
    from edgekd.samples import parse_example, read_samples

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
    from edgekd.stages.benchmark import QUICK, THOROUGH, benchmark_all, judge
    from edgekd.text import measurement_lines

    limits = parse_budget(budget or [])
    loaded = [load_artifact(path) for path in artifacts]
    measured = benchmark_all(
        loaded, device=device, threads=threads, protocol=QUICK if quick else THOROUGH
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
        for a, m, v in zip(loaded, measured, verdicts, strict=True):
            for line in measurement_lines(a, m, v, quick=quick):
                typer.echo(line)
    _raise_worst(loaded, verdicts)


@app.command()
def targets(
    name: Annotated[str | None, typer.Argument(help="One profile; without it, all.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the devices artifacts can be made for, or show one with its facts and their sources."""
    from edgekd.scheme import SCHEMES
    from edgekd.target import load_target, target_names
    from edgekd.text import target_line, target_lines

    found = [load_target(each) for each in ([name] if name else target_names())]
    if as_json:
        from dataclasses import asdict

        _print_json(asdict(found[0]) if name else [asdict(target) for target in found])
        return
    for target in found:
        typer.echo(target_line(target))
    if name:
        for line in target_lines(found[0], list(SCHEMES)):
            typer.echo(line)


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
def devices(
    action: Annotated[str, typer.Argument(help="setup")],
    kind: Annotated[str, typer.Argument(help="emulated: ARM64 by QEMU, without a board or root")],
    sources: Annotated[Path | None, typer.Option(help="apt's list of ARM64 packages.")] = None,
) -> None:
    """Set up a device that is made of software: `edgekd devices setup emulated`."""
    from edgekd.devices import emulated

    if (action, kind) != ("setup", "emulated"):
        fix = "edgekd devices setup emulated"
        what, got = "There is no such device to set up.", f"{action} {kind}"
        raise RecipeError(Fault(what=what, at="edgekd devices", got=got, expected=fix, fix=fix))

    def say(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    emulated.setup(say, sources=sources)


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
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False)


def main() -> None:
    """The program `edgekd`; it always ends by `sys.exit`."""
    from typer._click.exceptions import UsageError  # typer carries its own copy of click

    try:
        # typer imports pydantic to read any word, more than half the time of this answer.
        match sys.argv[1:]:
            case ["targets"]:
                targets()
                sys.exit(0)
            case ["targets", name] if not name.startswith("-"):
                targets(name)
                sys.exit(0)
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # typer answers Ctrl-C so
            raise KeyboardInterrupt
        sys.exit(code)
    except EdgekdError as error:
        _fail(error)
    except UsageError as error:
        _fail(usage_fault(error, sys.argv[1:]))
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("\nstopped; the same command goes on where it was\n")
        sys.exit(INTERRUPTED)
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
