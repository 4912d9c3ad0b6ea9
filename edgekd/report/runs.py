"""How a run was trained, where it ran, and several runs side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from edgekd.report import charts
from edgekd.report.html import figure, table
from edgekd.report.told import Told, figure_of, name_of, ships, shown, targets_of


def training(run: Told) -> Iterator[str]:
    """Loss and metric by epoch."""
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


def reproduce(run: Told) -> Iterator[str]:
    """Where it ran, with which packages, by which recipe."""
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


def side_by_side(runs: Sequence[Told]) -> Iterator[str]:
    """What ships of each run, by target."""
    rows = []
    for target in dict.fromkeys(target for run in runs for target in targets_of(run)):
        for run in runs:
            best = next(
                (r for r in run.result["rows"] if r["target"] == target and ships(run, r)), None
            )
            rows.append(
                [
                    target,
                    f"{run.result['name']} {run.folder.name}",
                    name_of(best) if best else "nothing",
                    shown(figure_of(best, "agreement", "metric"), ".4f") if best else "",
                    shown(figure_of(best, "artifact", "size_bytes"), ",.0f") if best else "",
                    shown(figure_of(best, "measurement", "p50_ms"), ".4f") if best else "",
                    shown(figure_of(best, "measurement", "p90_ms"), ".4f") if best else "",
                ]
            )
    head = ["target", "run", "ships", str(runs[0].result["metric"]), "bytes", "p50 ms", "p90 ms"]
    yield f"<h2>Side by side</h2>{table(head, rows, '   nnnn')}"
    yield "<p><small>Times of different runs were not taken interleaved: a few percent between "
    yield "them are the machine's. What follows is of the first run.</small></p>"
