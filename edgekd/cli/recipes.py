"""The commands that take a recipe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.words import AsJson, Settings, console, print_json


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
        print_json(
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


def schema() -> None:
    """Print the JSON Schema of a recipe, for editors."""
    from edgekd.recipe import Recipe

    print_json(Recipe.model_json_schema())
