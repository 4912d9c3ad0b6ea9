"""The HTML representation that a notebook asks an object for.

Source: https://ipython.readthedocs.io/en/stable/config/integrating.html
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape


def card(title: str, facts: Mapping[str, object]) -> str:
    """A table of names and values under a title; values that are None are left out."""
    rows = [[name, shown(value)] for name, value in facts.items() if value is not None]
    return grid(title, ("", ""), rows)


def grid(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a header under a title."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    top = line("th", head) if any(head) else ""
    body = "".join(line("td", cells) for cells in rows)
    return f"<p><b>{escape(title)}</b></p><table>{top}{body}</table>"


def shown(value: object) -> str:
    """`value` as text, with four significant digits or thousands separators."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
