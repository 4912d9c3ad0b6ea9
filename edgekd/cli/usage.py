"""A fault of the command line itself, told like every other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekd.errors import Fault, RecipeError, listed, nearest


def usage_fault(error: Any, words: Sequence[str]) -> RecipeError:
    """The error to raise for what typer says of `words`, in its UsageError."""
    context = error.ctx
    command = context.command_path if context else "edgekd"
    known = list(getattr(context.command, "commands", {})) if context else []
    options = [name for entry in (context.command.params if context else []) for name in entry.opts]
    got = " ".join(words) or "nothing"
    wrong = next((word for word in words if word not in known), "")
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
