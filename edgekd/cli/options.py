"""What the commands share: options of one meaning everywhere, and the two ways to print."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Put over the recipe.")
]
printed: list[bool] = []
"""Not empty once a JSON document is on stdout: there is one, also where a command stops early."""


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    printed.append(True)
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def say_next(step: str) -> None:
    """The last line of what a command tells people: what to do next."""
    sys.stdout.write(f"next: {step}\n")


def console() -> Any:
    """rich's console on stdout."""
    from rich.console import Console

    # A table is as wide as its contents where nobody looks at it.
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False)
