"""The style, tables and figures of a page, which loads nothing and has no script."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from edgekd.report.terms import linked

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --line: #c8c8c8; --soft: #f3f3f1;
  --good: #1d7a4f; --bad: #b3372f }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e6; --paper: #161616; --line: #444; --soft: #222; --good: #4fb285;
    --bad: #e8796f } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 78rem; padding: 1.2rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem } p { margin: .3rem 0 }
h1, h2, h3 { line-height: 1.25; break-after: avoid }
.wide { overflow-x: auto; margin: .4rem 0 } .wide:focus-visible { outline: 2px solid currentColor }
table { border-collapse: collapse; min-width: 100%; font-size: .92rem }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: normal } td.n, th.n { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums } th { font-weight: 600; vertical-align: bottom }
td:first-child, th:first-child, td.s { white-space: nowrap } td.w { min-width: 12rem }
th:last-child, td:last-child { padding-right: .2rem } tr { break-inside: avoid }
.cards { display: grid; gap: .7rem; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)) }
.card { border: 1px solid var(--line); border-left: 6px solid var(--good); padding: .6rem .8rem }
.card h3 { margin: 0 } .card ul { margin: .2rem 0; padding-left: 1.1rem }
.no { border-style: dashed; border-left-color: var(--bad) } .no .end { color: var(--bad) }
.end { color: var(--good); font-weight: 600 }
.plots { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)) }
.tables { display: grid; gap: .2rem 1.6rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(28rem, 100%), 1fr)) } section { min-width: 0 }
figure { margin: 0; min-width: 0 } figure svg { max-width: 100%; height: auto; display: block }
figcaption, small { font-size: .85rem } pre { overflow-x: auto; background: var(--soft);
  padding: .6rem; overflow-wrap: normal } details { margin: .4rem 0 }
summary { cursor: pointer; width: fit-content } a { color: inherit }
.terms dt { font-weight: 600 } .terms dd { margin: 0 0 .4rem }
@media (max-width: 30rem) { body { padding: .8rem } td.w { min-width: 11rem }
  .cards, .plots { grid-template-columns: minmax(0, 1fr) }
  td:first-child, th:first-child { white-space: normal }
  .stacked thead { display: none } .stacked tr { display: block; padding: .4rem 0;
    border-bottom: 1px solid var(--line) }
  .stacked td { display: flex; justify-content: space-between; gap: 1rem; border: 0;
    padding: .1rem 0; white-space: normal; min-width: 0 }
  .stacked td::before { content: attr(data-column); opacity: .8; flex: none; max-width: 45% }
  .stacked td.w { display: block } .stacked td.w::before { display: block; max-width: none }
  .stacked td:empty { display: none } }
@media print {
  :root { color-scheme: light; --ink: #000; --paper: #fff; --line: #999; --soft: #fff;
    --good: #1d7a4f; --bad: #b3372f }
  @page { margin: 12mm } body { max-width: none; padding: 0; font-size: 10pt }
  .wide { overflow: visible } table { font-size: 7.5pt } td.w { min-width: 9rem }
  th, td { padding-right: .4rem } td:first-child, th:first-child { white-space: normal }
  .cards, .plots { grid-template-columns: 1fr 1fr } .card, figure { break-inside: avoid }
  figure details, summary { display: none } pre { white-space: pre-wrap; font-size: 7.5pt }
  .again details::details-content { content-visibility: visible; block-size: auto }
  .packages { columns: 3 } }
"""


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], columns: str = "", *, stacked: bool = False
) -> str:
    """A table. A table that is wider than the page scrolls by itself, also by keyboard.

    Args:
        columns: one letter per column: "n" for numbers, "w" for sentences, "s" for short text that
            stays on one line, a space for anything else.
        stacked: on a phone, show the cells below each other, each with its column's name.
    """
    classes = {"n": ' class="n"', "w": ' class="w"', "s": ' class="s"'}
    kinds = [classes.get(columns[i : i + 1], "") for i in range(len(head))]

    def cells(row: Sequence[str]) -> str:
        return "".join(
            f'<td data-column="{escape(name)}"{kind}>{escape(cell)}</td>'
            if stacked
            else f"<td{kind}>{escape(cell)}</td>"
            for name, kind, cell in zip(head, kinds, row, strict=True)
        )

    top = "".join(
        f'<th scope="col"{kind}>{linked(name)}</th>' for name, kind in zip(head, kinds, strict=True)
    )
    body = "".join(f"<tr>{cells(row)}</tr>" for row in rows)
    kind = ' class="stacked"' if stacked else ""
    element = f"<table{kind}><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    label = escape(f"table of {head[0]} by {', '.join(filter(None, head[1:]))}")
    return f'<div class="wide" role="region" tabindex="0" aria-label="{label}">{element}</div>'


def figure(svg: str, alt: str, table: str) -> str:
    """A plot, its caption (also the text for screen readers) and its figures as a table."""
    start = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)
    return (
        f"<figure>{start}<figcaption>{escape(alt)}</figcaption>"
        f"<details><summary>Figures as a table</summary>{table}</details></figure>"
    )
