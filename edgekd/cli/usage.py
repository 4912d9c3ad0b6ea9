"""A fault of the command line itself, reported like every other fault."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekd.errors import Fault, RecipeError, listed, nearest


def usage_fault(error: Any, args: Sequence[str]) -> RecipeError:
    """The error to raise for `error`, the UsageError of typer about `args`."""
    context = error.ctx
    command = context.command_path if context else "edgekd"
    known = list(getattr(context.command, "commands", {})) if context else []
    options = [name for entry in (context.command.params if context else []) for name in entry.opts]
    wrong = next((word for word in args if word not in (*known, "help")), "")
    close = nearest(wrong, known or options) if wrong else None
    return RecipeError(
        Fault(
            what=error.format_message(),
            at=command,
            got=" ".join(args) or "no arguments",
            expected=listed(known) if known else f"the arguments that {command} --help lists",
            fix=f"did you mean {close!r}?" if close else f"see: {command} --help",
        )
    )
