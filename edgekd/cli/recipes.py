"""The commands that take a recipe."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekd.cli.options import AsJson, Settings, console, print_json, say_next


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
    from edgekd.cli.progress import Shown
    from edgekd.cli.result_text import after_table, before_table, table

    with Shown() as progress:
        progress("load", "edgekd")
        from edgekd.pipeline.result import failure
        from edgekd.pipeline.run import run as run_recipe

        result = run_recipe(recipe, out, until=until, settings=settings or [], progress=progress)
    if os.environ.get("RANK", "0") != "0":  # torchrun's, where this is not the first process
        return
    if as_json:
        print_json(result.to_json())
    else:
        shown = console()
        for part in (*before_table(result), table(result), *after_table(result)):
            shown.print(part, soft_wrap=isinstance(part, str))
    error = failure(result)
    if error is not None:
        raise error


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
            typer.echo(line)
        say_next(f"edgekd run {recipe}")


def explain(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.")],
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Print every value a run will use, and where it came from: recipe, --set, profile, default."""
    from edgekd.pipeline.plan import known_names
    from edgekd.recipe.provenance import explain as values_of

    found = values_of(recipe, settings or [], known_names())
    if as_json:
        print_json([vars(value) for value in found])
        return
    wide = max(len(value.key) for value in found)
    for value in found:
        told = f"  # {value.meaning}" if value.meaning and value.origin == "default" else ""
        typer.echo(f"{value.origin:10} {value.key:{wide}} = {value.value!r}{told}")
    say_next(f"edgekd check {recipe}; a value alone: --set KEY=VALUE")


def init(
    folder: Annotated[Path, typer.Argument(help="Where recipe.toml goes.")] = Path(),
    name: Annotated[str | None, typer.Option(help="Of the recipe; the folder's.")] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="classification, regression, embedding, segmentation or token-classification."
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="file.py:callable -> edgekd.Data.")] = None,
    student: Annotated[str | None, typer.Option(help="file.py:callable -> torch module.")] = None,
    teacher: Annotated[str | None, typer.Option(help="The same; none: no distillation.")] = None,
    teacher_weights: Annotated[
        str | None, typer.Option(help="A .safetensors file; without one it is trained here.")
    ] = None,
    target: Annotated[list[str] | None, typer.Option(help="A profile; repeatable.")] = None,
    device: Annotated[str | None, typer.Option(help="local, ssh://user@host, adb://...")] = None,
    latency_p90_ms: Annotated[float | None, typer.Option(help="The budget.")] = None,
    size_bytes: Annotated[int | None, typer.Option(help="The budget.")] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(min=0, help="Of the metric against the teacher, absolute; 0.01 of a share."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Of the student, and of the teacher.")] = 30,
    force: Annotated[bool, typer.Option("--force", help="Write over a recipe.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a first recipe: asks for what is not given, in a terminal."""
    import sys

    from edgekd.cli.plan_text import plan_lines
    from edgekd.pipeline.scaffold import Answers, check_absent, start

    check_absent(folder, over=force)
    given: dict[str, Any] = {
        "task": task,
        "data": data,
        "student": student,
        "teacher": teacher,
        "targets": target,
        "max_drop": max_drop,
        "latency_p90_ms": latency_p90_ms,
    }
    if sys.stdin.isatty() and not as_json:
        given |= _asked(given)
    answers = Answers(
        name=name or folder.resolve().name,
        teacher_weights=teacher_weights,
        epochs=epochs,
        size_bytes=size_bytes,
        device=device,
        **{key: value for key, value in given.items() if value is not None},
    )
    path, plan = start(folder, answers, over=force)
    if as_json:
        print_json({"recipe": str(path), "stages": list(plan.stages)})
        return
    typer.echo(f"written: {path}")
    for line in plan_lines(plan):
        typer.echo(line)
    say_next(f"edgekd run {path}; what its targets will make of the student: check {path} --lint")


def _asked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Answers to what is not given, from a terminal."""
    from edgekd.artifacts.target import target_names
    from edgekd.pipeline.scaffold import SHARE_DROP
    from edgekd.tasks import TASKS

    found: dict[str, Any] = {}

    def ask(key: str, question: str, default: str = "", known: Sequence[str] = ()) -> None:
        while given[key] is None and key not in found:
            answer = typer.prompt(question, default=default, err=True).strip()
            if known and answer not in known:
                typer.echo(f"  one of: {', '.join(known)}", err=True)
                continue
            found[key] = answer or None

    def ask_number(key: str, question: str, default: str = "") -> None:
        while given[key] is None and key not in found:
            answer = typer.prompt(question, default=default, err=True).strip()
            try:
                found[key] = float(answer) if answer else None
            except ValueError:
                typer.echo("  a number, such as 2.5", err=True)

    ask("task", f"task ({', '.join(TASKS)})", "classification", list(TASKS))
    ask("data", "data, a callable that returns edgekd.Data (data.py:load)")
    ask("student", "student, a callable that returns a torch module (models.py:student)")
    ask("teacher", "teacher, likewise, which the student learns from; empty for none")
    if given["teacher"] or found.get("teacher"):
        task = TASKS[given["task"] or found["task"]]
        share = task.metrics[task.default_metric].share
        unit = "a share" if share else "in your data's unit"
        worse = f"how much worse {task.default_metric} than the teacher's may be, {unit}"
        ask_number("max_drop", worse, str(SHARE_DROP) if share else "")
    if not given["targets"]:
        typer.echo(f"targets: {', '.join(target_names())}", err=True)
        told = typer.prompt("targets, separated by blanks", default="x86-cpu-onnx", err=True)
        found["targets"] = told.split()
    ask_number("latency_p90_ms", "p90 of the latency at most, ms; empty for no limit")
    return found


def route(
    run: Annotated[Path, typer.Argument(help="A run's folder, such as runs/NAME/latest.")],
    agreement: Annotated[
        float | None,
        typer.Option(help="With the teacher, of what the device keeps, at least; 0.99."),
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="With which that holds of samples to come; 0.95.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the confidence under which the device should ask the larger model.

    The threshold is calibrated on the validation split and tried on the test split. It goes into a
    new run, its report and its bundle; nothing that the run has done is done again.
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
            typer.echo(line)
        say_next(
            f"edgekd report {result.folder}; its bundle's manifest tells the app the threshold"
        )


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs; the first is told in full.")],
    out: Annotated[
        Path | None, typer.Option(help="The file; report.html in the first run without it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's report as one HTML file, or that of several side by side."""
    from edgekd.report import write_report

    place = out or runs[0] / "report.html"
    write_report(runs, place)
    if as_json:
        print_json({"report": str(place)})
    else:
        typer.echo(str(place))
        say_next("open it in a browser; it is one file, and fetches nothing")


def schema() -> None:
    """Print the JSON Schema of a recipe, for editors."""
    from edgekd.recipe.schema import Recipe

    print_json(Recipe.model_json_schema())
