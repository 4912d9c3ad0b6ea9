"""Text that tools print, in parts; a parser guesses nothing."""

from __future__ import annotations

import re

NUMBER = r"-?\d+(?:\.\d+)?"


def only_match(pattern: str, text: str) -> str:
    """The first group of `pattern`, which matches all of `text`.

    Raises:
        ValueError: `text` does not match.
    """
    match = re.fullmatch(pattern, text.strip())
    if match is None:
        raise ValueError(f"expected {pattern}, not {text.strip()!r}")
    return match[1]


def text_lines(text: str) -> list[str]:
    """The lines of `text` that are not blank, stripped."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def integer(text: str | None) -> int | None:
    """`text` as an integer, or None if it is not one."""
    return int(text) if text is not None and text.isdigit() else None
