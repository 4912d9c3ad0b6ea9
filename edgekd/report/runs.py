"""The training of a run, its environment, and the comparison of several runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from edgekd.report import charts
from edgekd.report.html import figure, table
from edgekd.report.run_data import RunData, figure_of, name_of, ships, shown, targets_of


def training(run: RunData) -> Iterator[str]:
    """The loss and the metric by epoch."""
    if not run.curves:
        return
    yield '<h2>Training</h2><div class="plots">'
    metric = str(run.result["metric"])
    for kind in ("loss", metric):
        points = [
            {"epoch": entry["epoch"], kind: entry[kind], "name": name}
            for name, entries in run.curves.items()
            for entry in entries
            if entry.get(kind) is not None
        ]
        if not points:
            continue
        cells = [[p["name"], f"{p['epoch']:g}", f"{p[kind]:.4f}"] for p in points]
        where = "" if kind == "loss" else ", on the validation split"
        figures = table(["training", "epoch", kind], cells, " nn")
        yield figure(charts.curves(points, kind), f"{kind} by epoch{where}", figures)
    yield "</div>"


def reproduce(run: RunData) -> Iterator[str]:
    """The machine, the packages and the recipe of a run, and the command that repeats it."""
    facts = run.environment
    cores = f", {facts['cores']} cores" if facts.get("cores") else ""
    yield '<section class="again"><h2>Environment and reproduction</h2>'
    yield f"<p>Python {escape(str(facts['python']))} on {escape(str(facts['platform']))}, "
    yield f"{escape(str(facts['processor']))}{cores}; "
    yield f"seed {escape(str(run.recipe.get('seed', 0)))}.</p>"
    if run.result["reused"]:
        yield f"<p>{len(run.result['reused'])} results of earlier runs were reused.</p>"
    yield "<p>To repeat the run, install these packages, put the recipe below beside the files "
    yield "that it names, and run:</p>"
    yield "<pre>edgekd run recipe.toml --out runs</pre>"
    packages = "\n".join(f"{name}=={version}" for name, version in facts["packages"].items())
    yield "<details><summary>Packages</summary>"
    yield f'<pre class="packages">{escape(packages)}</pre></details>'
    text = escape((run.folder / "recipe.toml").read_text(encoding="utf-8"))
    yield f"<details><summary>Recipe with all defaults</summary><pre>{text}</pre></details>"
    yield "</section>"


def side_by_side(runs: Sequence[RunData]) -> Iterator[str]:
    """The networks of each run, and what each run ships per target."""
    yield f"<h2>Comparison of runs</h2>{_networks(runs)}"
    rows, plots = [], []
    metric = str(runs[0].result["metric"])
    for target in dict.fromkeys(target for run in runs for target in targets_of(run)):
        points = []
        for run in runs:
            best = next(
                (r for r in run.result["rows"] if r["target"] == target and ships(run, r)), None
            )
            value = figure_of(best, "agreement", "metric") if best else None
            size = figure_of(best, "artifact", "size_bytes") if best else None
            if value is not None and size is not None and run.result["metric"] == metric:
                points.append({"bytes": size, metric: value, "name": _label(run), "ships": True})
            rows.append(
                [
                    target,
                    _label(run),
                    name_of(best) if best else "nothing",
                    shown(value, ".4f"),
                    shown(size, ",.0f"),
                    shown(figure_of(best, "measurement", "p50_ms"), ".4f") if best else "",
                    shown(figure_of(best, "measurement", "p90_ms"), ".4f") if best else "",
                ]
            )
        if len(points) > 1:
            smaller = bool(runs[0].result.get("smaller_is_better"))
            svg = charts.scatter(points, "bytes", metric, smaller_is_better=smaller)
            cells = [[str(p["name"]), f"{p['bytes']:,.0f}", f"{p[metric]:.4f}"] for p in points]
            alt = f"{target}: {metric} against bytes of the shipped candidate, by run"
            plots.append(figure(svg, alt, table(["run", "bytes", metric], cells, " nn")))
    head = ["target", "run", "ships", metric, "bytes", "p50, ms", "p90, ms"]
    yield table(head, rows, "   nnnn")
    yield f'<div class="plots">{"".join(plots)}</div>'
    yield "<p><small>Latencies of different runs were not measured interleaved: differences of a "
    yield "few percent may come from the machine. The rest of the report is of the first run."
    yield "</small></p>"


def _label(run: RunData) -> str:
    return f"{run.result['name']} {run.folder.name}"


def _networks(runs: Sequence[RunData]) -> str:
    """The teacher and the student of each run."""
    rows = []
    for run in runs:
        for role in ("teacher", "unpruned", "student"):
            score = run.result.get(role)
            if score:
                figures = [shown(score[key], ",.0f") for key in ("parameters", "macs")]
                rows.append([_label(run), role, f"{score['metric']:.4f}", *figures])
    head = ["run", "network", str(runs[0].result["metric"]), "parameters", "multiply-accumulates"]
    return table(head, rows, "  nnn")
