"""What a page is made of: its style, tables and figures. Nothing in it is fetched or run."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --line: #c8c8c8; --soft: #f3f3f1 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e6; --paper: #161616; --line: #444; --soft: #222 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 78rem; padding: 1.2rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem } p { margin: .3rem 0 }
.wide { overflow-x: auto } table { border-collapse: collapse; min-width: 100% }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top } td.n, th.n { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums } th { font-weight: 600 }
td { overflow-wrap: normal } td.w { min-width: 20rem }
.cards { display: grid; gap: .7rem; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)) }
.card { border: 1px solid var(--line); border-left-width: 6px; padding: .6rem .8rem }
.no { border-style: dashed } .card b { font-size: 1.05rem }
.plots { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)) }
figure { margin: 0 } figure svg { max-width: 100%; height: auto }
figcaption, small { font-size: .85rem } pre { overflow-x: auto; background: var(--soft);
  padding: .6rem } details { margin: .4rem 0 }
@media print { body { max-width: none } details > * { display: block } .card, figure {
  break-inside: avoid } }
"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]], columns: str = "") -> str:
    """A table; `columns` has an "n" where one is of numbers, a "w" where it is of sentences."""
    classes = {"n": ' class="n"', "w": ' class="w"'}
    kinds = [classes.get(columns[i : i + 1], "") for i in range(len(head))]

    def row(tag: str, cells: Sequence[str]) -> str:
        pairs = zip(kinds, cells, strict=True)
        return f"<tr>{''.join(f'<{tag}{kind}>{escape(each)}</{tag}>' for kind, each in pairs)}</tr>"

    top, body = row("th", head), "".join(row("td", cells) for cells in rows)
    made = f"<table><thead>{top}</thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{made}</div>'


def figure(svg: str, alt: str, table: str) -> str:
    """A plot with what it says in words, and its figures behind it."""
    start = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)
    return (
        f"<figure>{start}<figcaption>{escape(alt)}</figcaption>"
        f"<details><summary>the figures</summary>{table}</details></figure>"
    )
