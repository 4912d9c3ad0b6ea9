"""Options that several commands share, and the ways to print."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekd.errors import printable

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
RecipePath = Annotated[Path, typer.Argument(help="The recipe, a TOML file.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a value of the recipe, e.g. distill.epochs=3. Repeatable.",
    ),
]
ArtifactPath = Annotated[
    Path, typer.Argument(help="The model file, or the folder that holds its artifact.json.")
]
Against = Annotated[
    str, typer.Option(help="The network that the file was exported from, as given to export.")
]
Samples = Annotated[Path, typer.Option(help="Real inputs by name, in a .safetensors or .npz file.")]
Weights = Annotated[
    str | None, typer.Option(help="The weights of the network, a .safetensors file.")
]
Device = Annotated[
    str,
    typer.Option(
        help="Where the file runs: local, ssh://USER@HOST, adb://SERIAL, emulated://CORE."
    ),
]

printed: list[bool] = []
"""Not empty once a JSON document is on stdout: a command that fails later prints no second one."""

verbose: list[bool] = []
"""Not empty if -v was given."""


def _set_verbose(value: bool) -> None:
    if value:
        verbose.append(True)


Verbose = Annotated[
    bool,
    typer.Option(
        "-v",
        "--verbose",
        callback=_set_verbose,
        help="Print every progress step with its time, and the traceback of an error.",
    ),
]


def with_verbose(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with the option -v, which every command takes."""

    @functools.wraps(command)
    def call(*, verbose: bool, **arguments: Any) -> None:  # noqa: ARG001  the callback reads it
        command(**arguments)

    signature = inspect.signature(command, eval_str=True)
    option = inspect.Parameter(
        "verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Verbose
    )
    parameters = [*signature.parameters.values(), option]
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    return call


def print_json(document: Any) -> None:
    """Prints one JSON document on stdout."""
    printed.append(True)
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def echo(line: str, *, err: bool = False) -> None:
    """Prints one line of text on stdout, or on stderr, without control characters."""
    typer.echo(printable(line), err=err)


def say_next(step: str) -> None:
    """Prints the last line of a command: what to do next."""
    echo(f"next: {step}")


def console() -> Any:
    """rich's console on stdout."""
    from rich.console import Console

    # Off a terminal, a table is as wide as its contents.
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False)
