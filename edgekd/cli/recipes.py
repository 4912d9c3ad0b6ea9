"""The commands that take a recipe or the folder of a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.completion import STAGES, stages
from edgekd.cli.options import AsJson, RecipePath, Settings, console, echo, print_json, say_next
from edgekd.errors import listed, printable


def run(
    recipe: RecipePath,
    out: Annotated[Path, typer.Option(help="The folder of the runs.")] = Path("runs"),
    until: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE",
            help=f"Stop after this stage: {listed(STAGES)}.",
            autocompletion=stages,
        ),
    ] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Run a recipe: from the teacher to a verified, measured file for every target.

    A second run redoes only what changed.

    \b
    Exit codes:
      0  every required target passed
      1  a bug in edgekd
      2  the recipe or the arguments are wrong
      3  a target supports no requested scheme
      4  a package is missing
      5  a converter failed
      6  a device is unreachable
      7  a file disagrees with its network
      8  a budget is missed
      9  a budget is undecided
    """
    from edgekd.cli.progress import Shown
    from edgekd.cli.result_text import after_table, before_table, table

    with Shown() as progress:
        progress("load", "edgekd")
        from edgekd.pipeline.result import failure
        from edgekd.pipeline.run import run as run_recipe

        result = run_recipe(recipe, out, until=until, settings=settings or [], progress=progress)
    if os.environ.get("RANK", "0") != "0":  # torchrun started this process, not as the first one
        return
    if as_json:
        print_json(result.to_json())
    else:
        shown = console()
        for part in (*before_table(result), table(result), *after_table(result)):
            text = printable(part) if isinstance(part, str) else part
            shown.print(text, soft_wrap=isinstance(part, str))
    error = failure(result)
    if error is not None:
        raise error


def check(
    recipe: RecipePath,
    settings: Settings = None,
    lint: Annotated[
        bool,
        typer.Option(
            "--lint",
            help="Also convert the untrained student, and report the operators that a target does "
            "not run well.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Validate a recipe without running it: report all errors at once, each with a fix.

    With --lint, the command also converts the untrained student for every target, which takes
    seconds. It reports the operators that fall back, are unrolled or are refused there.
    """
    from edgekd.cli.plan_text import plan_lines, preview_lines
    from edgekd.pipeline.plan import check as check_recipe

    plan = check_recipe(recipe, settings or [])
    previewed = None
    if lint:
        from edgekd.cli.progress import Shown
        from edgekd.pipeline.lint_preview import preview

        with Shown() as progress:
            previewed = preview(plan, progress)
    if as_json:
        print_json(
            {
                "name": plan.recipe.name,
                "stages": list(plan.stages),
                "rows": [row.to_json() for row in plan.candidates],
                "lint": [row.to_json() for row in previewed] if previewed is not None else None,
            }
        )
    else:
        for line in (*preview_lines(previewed), *plan_lines(plan)):
            echo(line)
        say_next(f"edgekd run {recipe}")


def explain(
    recipe: RecipePath,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """List every value of a run and its origin: recipe, --set, target profile or default."""
    from edgekd.pipeline.extensions import known_names
    from edgekd.recipe.provenance import explain as values_of

    values = values_of(recipe, settings or [], known_names(recipe.parent))
    if as_json:
        print_json([vars(value) for value in values])
        return
    width = max(len(value.key) for value in values)
    for value in values:
        meaning = f"  # {value.meaning}" if value.meaning and value.origin == "default" else ""
        echo(f"{value.origin:10} {value.key:{width}} = {value.value!r}{meaning}")
    say_next(f"edgekd check {recipe}; try another value with --set KEY=VALUE")


def route(
    run: Annotated[Path, typer.Argument(help="The folder of a run, e.g. runs/NAME/latest.")],
    agreement: Annotated[
        float | None,
        typer.Option(
            help="The lowest agreement with the teacher of the answers that the device keeps. The "
            "default is the recipe's, or 0.99."
        ),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            help="The probability with which the agreement holds for new samples. The default is "
            "the recipe's, or 0.95."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Choose the confidence threshold below which the device defers to the larger model.

    The command calibrates the threshold on the validation split and evaluates it on the test
    split. It writes a new run with a report and a bundle, and reuses all results of the old run.
    """
    from edgekd.cli.progress import Shown
    from edgekd.cli.result_text import route_lines

    with Shown() as progress:
        progress("load", "edgekd")
        from edgekd.pipeline.run import route as route_run

        result = route_run(run, agreement=agreement, confidence=confidence, progress=progress)
    if as_json:
        routes = {name: found.to_json() for name, found in result.routes.items()}
        print_json({"run": str(result.folder), "routes": routes})
    else:
        for line in route_lines(result):
            echo(line)
        say_next(
            f"edgekd report {result.folder}; the app reads the threshold from the bundle's manifest"
        )


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="The folders of runs. The first is reported in full.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The HTML file. The default is report.html in the first run."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the report of a run, or of several runs side by side, as one HTML file."""
    from edgekd.report import write_report

    path = out or runs[0] / "report.html"
    write_report(runs, path)
    if as_json:
        print_json({"report": str(path)})
    else:
        echo(str(path))
        say_next("open the file in a browser; it loads nothing from the network")


def schema() -> None:
    """Print the JSON Schema of a recipe, for editors and validators."""
    from edgekd.recipe.schema import Recipe

    print_json(Recipe.model_json_schema())
