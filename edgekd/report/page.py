"""Writes report.html: one file without scripts or network access."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from edgekd.report.candidates import candidates, instructions, latencies, trade_offs
from edgekd.report.decisions import classes, routes, slices
from edgekd.report.html import STYLE
from edgekd.report.layers import layers
from edgekd.report.run_data import RunData, read_run
from edgekd.report.runs import reproduce, side_by_side, training
from edgekd.report.terms import terms
from edgekd.report.verdicts import networks, steps, verdicts
from edgekd.system.files import write_text

SECTIONS = (
    verdicts,
    networks,
    steps,
    trade_offs,
    latencies,
    candidates,
    instructions,
    layers,
    classes,
    slices,
    routes,
    training,
    reproduce,
    terms,
)
"""The sections of a report, in order."""


def write_report(folders: Sequence[Path], out: Path) -> None:
    """Writes the report of the runs in `folders` to the file `out`, with the first run in full.

    Raises:
        RecipeError: a folder is not of a finished run.
        MissingPackageError: vl-convert, which draws the plots, is not installed.
    """
    runs = [read_run(folder) for folder in folders]
    write_text(out, "".join(_page(runs)))


def _page(runs: Sequence[RunData]) -> Iterator[str]:
    first = runs[0]
    name = escape(str(first.result["name"]))
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    # The page fetches nothing, whatever a name in the recipe contains.
    yield '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    yield "style-src 'unsafe-inline'; img-src data:\">"
    yield f"<title>{name}: edgekd report</title><style>{STYLE}</style></head><body>"
    passed = "every required target passed" if first.result["passed"] else "not passed"
    mark = "\u2713" if first.result["passed"] else "\u2717"
    yield f"<main><h1>{mark} {name}: {passed}</h1>"
    # Not the whole path: a report is passed on, and must not reveal where and by whom it was made.
    yield f"<p><small>run {escape('/'.join(first.folder.parts[-2:]))}</small></p>"
    if len(runs) > 1:
        yield from side_by_side(runs)
    for section in SECTIONS:
        yield from section(first)
    yield "</main></body></html>\n"
