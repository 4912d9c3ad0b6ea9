"""report.html: what runs came to, in one file that needs no network and no script."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from edgekd import charts
from edgekd.errors import Fault, RecipeError
from edgekd.store import write_text
from edgekd.toml import read_toml

POINTS = 200
"""Of a line of a distribution: as many as a plot of this width shows."""


@dataclass(frozen=True)
class Told:
    """A run's folder, read: its result, recipe, environment, curves and single latencies."""

    folder: Path
    result: Mapping[str, Any]
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]
    curves: Mapping[str, list[dict[str, Any]]]
    samples_ms: Mapping[str, Mapping[str, list[float]]]


def read_run(folder: Path) -> Told:
    """The run in `folder`.

    Raises:
        RecipeError: it is no run, or one that did not come to its end.
    """
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        assert result["rows"] is not None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            Fault(
                what=f"{folder} is not the folder of a run that ended.",
                at=str(folder / "result.json"),
                got=f"{type(error).__name__}: {error}",
                expected="a folder that edgekd run wrote, such as runs/NAME/latest",
                fix="run the recipe again: it goes on where it stopped",
            )
        ) from error
    curves = {}
    for stage in ("train", "distill"):
        for path in sorted(folder.glob(f"{stage}/**/history.jsonl")):
            name = path.parent.relative_to(folder).as_posix()
            curves[name] = [json.loads(line) for line in path.read_text().splitlines()]
    samples: dict[str, dict[str, list[float]]] = {}
    for path in sorted(folder.glob("benchmark/*/*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and "samples_ns" in found:
            times = [ns / 1e6 for process in found["samples_ns"] for ns in process]
            samples.setdefault(path.parent.name, {})[path.stem] = times
    recipe = read_toml(folder / "recipe.toml")
    return Told(folder.resolve(), result, recipe, environment, curves, samples)


def write_report(folders: Sequence[Path], out: Path) -> None:
    """Writes the report of the runs in `folders`, the first in full, to the file `out`.

    Raises:
        RecipeError: a folder is no run.
        MissingPackageError: vl-convert, which draws the plots, is not installed.
    """
    runs = [read_run(folder) for folder in folders]
    write_text(out, "".join(_page(runs)))


STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --line: #c8c8c8; --soft: #f3f3f1 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e6; --paper: #161616; --line: #444; --soft: #222 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 62rem; padding: 1.2rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem } p { margin: .3rem 0 }
.wide { overflow-x: auto } table { border-collapse: collapse; min-width: 100% }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top } td.n, th.n { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums } th { font-weight: 600 }
td { overflow-wrap: normal } td.w { min-width: 22rem }
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


def _page(runs: Sequence[Told]) -> Iterator[str]:
    first = runs[0]
    name = escape(str(first.result["name"]))
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    # Nothing is fetched, whatever a name in the recipe says.
    yield '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    yield "style-src 'unsafe-inline'; img-src data:\">"
    yield f"<title>{name}: edgekd report</title><style>{STYLE}</style></head><body>"
    passed = "every required target passed" if first.result["passed"] else "not passed"
    yield f"<h1>{name}: {passed}</h1><p><small>{escape(str(first.folder))}</small></p>"
    if len(runs) > 1:
        yield from _side_by_side(runs)
    yield from _verdicts(first)
    yield from _networks(first)
    yield from _trade_offs(first)
    yield from _latencies(first)
    yield from _candidates(first)
    yield from _training(first)
    yield from _reproduce(first)
    yield "</body></html>\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], columns: str = "") -> str:
    """A table; `columns` has an "n" where one is of numbers, a "w" where it is of sentences."""
    classes = {"n": ' class="n"', "w": ' class="w"'}
    kinds = [classes.get(columns[i : i + 1], "") for i in range(len(head))]

    def row(tag: str, cells: Sequence[str]) -> str:
        pairs = zip(kinds, cells, strict=True)
        return f"<tr>{''.join(f'<{tag}{kind}>{escape(each)}</{tag}>' for kind, each in pairs)}</tr>"

    top, body = row("th", head), "".join(row("td", cells) for cells in rows)
    made = f"<table><thead>{top}</thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{made}</div>'


def _figure(svg: str, alt: str, table: str) -> str:
    """A plot with what it says in words, and its figures behind it."""
    start = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)
    return (
        f"<figure>{start}<figcaption>{escape(alt)}</figcaption>"
        f"<details><summary>the figures</summary>{table}</details></figure>"
    )


def _name(row: Mapping[str, Any]) -> str:
    network = row.get("network", "student")
    return str(row["scheme"]) if network == "student" else f"{network}-{row['scheme']}"


def _ships(run: Told, row: Mapping[str, Any]) -> bool:
    choice = run.result["chosen"].get(row["target"])
    return bool(choice) and (choice["scheme"], choice["network"]) == (row["scheme"], row["network"])


def _of(row: Mapping[str, Any], part: str, key: str) -> float | None:
    table = row.get(part)
    value = table.get(key) if table else None
    return float(value) if value is not None else None


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _targets(run: Told) -> list[str]:
    return list(dict.fromkeys(row["target"] for row in run.result["rows"]))


def _budget(run: Told, target: str) -> dict[str, float]:
    for entry in run.recipe.get("targets", []):
        if Path(entry["name"]).stem == target:
            return dict(entry.get("budget", {}))
    return {}


def _verdicts(run: Told) -> Iterator[str]:
    metric = str(run.result["metric"])
    yield '<h2>Verdict by target</h2><div class="cards">'
    for target in _targets(run):
        rows = [row for row in run.result["rows"] if row["target"] == target]
        best = next((row for row in rows if _ships(run, row)), None)
        choice = run.result["chosen"].get(target, {})
        yield f'<div class="card{"" if best else " no"}"><b>{escape(target)}</b><br>'
        if best:
            bits = [f"ships {_name(best)}"]
            bits += [f"{metric} {_shown(_of(best, 'agreement', 'metric'), '.4f')}"]
            bits += [f"{_shown(_of(best, 'artifact', 'size_bytes'), ',.0f')} bytes"]
            p90 = _of(best, "measurement", "p90_ms")
            bits += [f"p90 {p90:.3f} ms"] if p90 is not None else ["not timed"]
            count = best.get("instructions")
            bits += [f"{count:,} instructions"] if count else []
            yield escape("; ".join(bits)) + f"<br><small>evidence: {escape(str(best['evidence']))}"
            yield "</small>"
        else:
            yield "ships nothing"
        limits = ", ".join(f"{k} {v:,}" for k, v in _budget(run, target).items()) or "none"
        yield f"<p><small>budget: {escape(limits)}</small></p>"
        yield f"<p><small>{escape(str(choice.get('why', '')))}</small></p></div>"
    yield "</div>"


def _networks(run: Told) -> Iterator[str]:
    teacher, metric = run.result["teacher"], str(run.result["metric"])
    found = [
        (role, run.result[key])
        for role, key in (("teacher", "teacher"), ("unpruned", "unpruned"), ("student", "student"))
        if run.result.get(key)
    ]
    rows = []
    for role, score in found:
        cells = [role, f"{score['metric']:.4f}"]
        for key in ("parameters", "macs"):
            value, whole = score[key], teacher[key] if teacher else None
            ours = role != "teacher" and value and whole
            share = f" ({value / whole:.3f} of the teacher's)" if ours else ""
            cells.append(f"{value:,}{share}" if value is not None else "a file: not known")
        rows.append(cells)
    yield "<h2>Teacher and student</h2>"
    yield _table(["network", metric, "parameters", "multiply-accumulates"], rows, " nnn")


def _trade_offs(run: Told) -> Iterator[str]:
    metric = str(run.result["metric"])
    yield "<h2>What accuracy costs</h2>"
    for target in _targets(run):
        rows = [row for row in run.result["rows"] if row["target"] == target]
        figures = []
        for x, part, key, budget in (
            ("p90, ms", "measurement", "p90_ms", "latency_p90_ms"),
            ("bytes", "artifact", "size_bytes", "size_bytes"),
        ):
            points = [
                {x: at, metric: value, "name": _name(row), "ships": _ships(run, row)}
                for row in rows
                if (at := _of(row, part, key)) is not None
                and (value := _of(row, "agreement", "metric")) is not None
            ]
            if not points:
                continue
            svg = charts.scatter(points, x, metric, _budget(run, target).get(budget))
            ships = next((p["name"] for p in points if p["ships"]), "none")
            alt = f"{target}: {metric} against {x}; {ships} ships and is filled"
            cells = [[str(p["name"]), f"{p[x]:g}", f"{p[metric]:.4f}"] for p in points]
            figures.append(_figure(svg, alt, _table(["candidate", x, metric], cells, " nn")))
        if figures:
            yield f'<h3>{escape(target)}</h3><div class="plots">{"".join(figures)}</div>'


def _latencies(run: Told) -> Iterator[str]:
    if not run.samples_ms:
        yield "<h2>Latency</h2><p>Nothing was timed, or its single times were not kept.</p>"
        return
    yield '<h2>Latency</h2><div class="plots">'
    for target, found in run.samples_ms.items():
        points, cells = [], []
        for name, times in found.items():
            ordered = sorted(times)
            step = max(1, len(ordered) // POINTS)
            points += [
                {"ms": ordered[i], "share": (i + 1) / len(ordered), "name": name}
                for i in range(0, len(ordered), step)
            ]
            at = [ordered[min(len(ordered) - 1, int(f * len(ordered)))] for f in (0.5, 0.9, 0.99)]
            cells.append([name, str(len(ordered)), *(f"{ms:.4f}" for ms in at)])
        names = {f"latency_p{p}_ms": f"p{p} budget" for p in (50, 90, 99)}
        budget = _budget(run, target)
        limits = {told: budget[key] for key, told in names.items() if key in budget}
        alt = f"{target}: share of inferences that took at most so many ms, by candidate"
        head = ["candidate", "inferences", "p50 ms", "p90 ms", "p99 ms"]
        yield _figure(charts.distribution(points, limits), alt, _table(head, cells, " nnnn"))
    yield "</div>"


def _candidates(run: Told) -> Iterator[str]:
    metric = str(run.result["metric"])
    head = ["target", "candidate", "outcome", metric, "same class", "SQNR dB", "worst error",
            "time / fp32", "why, and what its target does not run well"]  # fmt: skip
    rows = []
    for row in run.result["rows"]:
        ratio = row["measurement"]["ratio"] if row.get("measurement") else None
        told = [row["detail"], *row["notes"]] if _ships(run, row) else [row["detail"]]
        rows.append(
            [
                row["target"],
                _name(row) + (" (ships)" if _ships(run, row) else ""),
                str(row["outcome"]),
                _shown(_of(row, "agreement", "metric"), ".4f"),
                _shown(_of(row, "agreement", "task_agreement"), ".4f"),
                _shown(_of(row, "agreement", "sqnr_db"), ".1f"),
                _shown(_of(row, "agreement", "max_abs_error"), ".2g"),
                f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
                if ratio
                else "",
                "; ".join(filter(None, told)),
            ]
        )
    yield f"<h2>Every candidate</h2>{_table(head, rows, '   nnnnnw')}"
    yield "<p><small>Each ran in its own runtime on the whole test split. The eight samples that "
    yield "it reproduces worst lie in verify/TARGET-CANDIDATE/worst.npz.</small></p>"


def _training(run: Told) -> Iterator[str]:
    if not run.curves:
        return
    yield '<h2>Training</h2><div class="plots">'
    metric = str(run.result["metric"])
    for figure in ("loss", metric):
        points = [
            {"epoch": entry["epoch"], figure: entry[figure], "name": name}
            for name, entries in run.curves.items()
            for entry in entries
            if entry.get(figure) is not None
        ]
        if not points:
            continue
        cells = [[p["name"], f"{p['epoch']:g}", f"{p[figure]:.4f}"] for p in points]
        where = "" if figure == "loss" else ", on the validation split"
        table = _table(["training", "epoch", figure], cells, " nn")
        yield _figure(charts.curves(points, figure), f"{figure} by epoch{where}", table)
    yield "</div>"


def _reproduce(run: Told) -> Iterator[str]:
    told = run.environment
    yield "<h2>Where it ran, and again</h2>"
    yield f"<p>Python {escape(str(told['python']))} on {escape(str(told['platform']))}, "
    yield f"{escape(str(told['processor']))}; seed {escape(str(run.recipe.get('seed', 0)))}.</p>"
    if run.result["reused"]:
        yield f"<p>{len(run.result['reused'])} results of earlier runs were used again.</p>"
    yield "<pre>edgekd run recipe.toml --out runs</pre>"
    packages = "\n".join(f"{name}=={version}" for name, version in told["packages"].items())
    yield f"<details><summary>packages</summary><pre>{escape(packages)}</pre></details>"
    text = escape((run.folder / "recipe.toml").read_text(encoding="utf-8"))
    yield f"<details><summary>the recipe, with every default</summary><pre>{text}</pre></details>"


def _side_by_side(runs: Sequence[Told]) -> Iterator[str]:
    rows = []
    for target in dict.fromkeys(target for run in runs for target in _targets(run)):
        for run in runs:
            best = next(
                (r for r in run.result["rows"] if r["target"] == target and _ships(run, r)), None
            )
            rows.append(
                [
                    target,
                    f"{run.result['name']} {run.folder.name}",
                    _name(best) if best else "nothing",
                    _shown(_of(best, "agreement", "metric"), ".4f") if best else "",
                    _shown(_of(best, "artifact", "size_bytes"), ",.0f") if best else "",
                    _shown(_of(best, "measurement", "p50_ms"), ".4f") if best else "",
                    _shown(_of(best, "measurement", "p90_ms"), ".4f") if best else "",
                ]
            )
    head = ["target", "run", "ships", str(runs[0].result["metric"]), "bytes", "p50 ms", "p90 ms"]
    yield f"<h2>Side by side</h2>{_table(head, rows, '   nnnn')}"
    yield "<p><small>Times of different runs were not taken interleaved: a few percent between "
    yield "them are the machine's. What follows is of the first run.</small></p>"
