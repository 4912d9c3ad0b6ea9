"""All candidates of a run: trade-offs, latencies, and the reasons why they ship or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil
from typing import Any

from edgekd.evidence.measurement import LEAST_OF_P99
from edgekd.report import charts
from edgekd.report.html import figure, table
from edgekd.report.run_data import RunData, budget_of, figure_of, name_of, ships, shown, targets_of

POINTS = 200
"""Points per line of a distribution: more are not visible at the width of the plot."""


def trade_offs(run: RunData) -> Iterator[str]:
    """The metric against latency and against size, one plot each per target."""
    metric = str(run.result["metric"])
    figures: list[str] = []
    for target in targets_of(run):
        rows = [row for row in run.result["rows"] if row["target"] == target]
        for x, part, key, budget in (
            ("p90, ms", "measurement", "p90_ms", "latency_p90_ms"),
            ("bytes", "artifact", "size_bytes", "size_bytes"),
        ):
            points = [
                {x: at, metric: value, "name": name_of(row), "ships": ships(run, row)}
                for row in rows
                if (at := figure_of(row, part, key)) is not None
                and (value := figure_of(row, "agreement", "metric")) is not None
            ]
            if not points:
                continue
            limit = budget_of(run, target).get(budget)
            smaller = bool(run.result.get("smaller_is_better"))
            svg = charts.scatter(points, x, metric, limit, smaller_is_better=smaller)
            best = next((p["name"] for p in points if p["ships"]), None)
            front = charts.front(points, x, metric, smaller_is_better=smaller)
            alt = f"{target}: {metric} against {x}; "
            alt += f"{best} ships (filled); " if best else "none ships; "
            alt += f"Pareto front (line): {', '.join(str(p['name']) for p in front)}"
            cells = [[str(p["name"]), f"{p[x]:g}", f"{p[metric]:.4f}"] for p in points]
            figures.append(figure(svg, alt, table(["candidate", x, metric], cells, " nn")))
    if figures:
        yield f'<h2>Trade-offs</h2><div class="plots">{"".join(figures)}</div>'


def latencies(run: RunData) -> Iterator[str]:
    """The distribution of the latency samples per target, with the budgets."""
    if not run.samples_ms:
        yield "<h2>Latency</h2><p>No latency was measured, or no samples were kept.</p>"
        return
    yield '<h2>Latency</h2><div class="plots">'
    for target, samples in run.samples_ms.items():
        points, cells = [], []
        # In the order of the rows, so that a candidate has the same colour in all plots.
        ranks = [name_of(row) for row in run.result["rows"] if row["target"] == target]
        for name, times in sorted(samples.items(), key=lambda item: ranks.index(item[0])):
            ordered = sorted(times)
            step = max(1, len(ordered) // POINTS)
            points += [
                {"ms": ordered[i], "share": (i + 1) / len(ordered), "name": name}
                for i in range(0, len(ordered), step)
            ]
            at = [ordered[max(0, ceil(f * len(ordered)) - 1)] for f in (0.5, 0.9, 0.99)]
            figures = [f"{ms:.4f}" for ms in at]
            figures[2] = figures[2] if len(ordered) >= LEAST_OF_P99 else "too few samples"
            cells.append([name, str(len(ordered)), *figures])
        names = {f"latency_p{p}_ms": f"p{p} budget" for p in (50, 90, 99)}
        budget = budget_of(run, target)
        limits = {name: budget[key] for key, name in names.items() if key in budget}
        alt = f"{target}: cumulative distribution of the latency, by candidate"
        alt += "; the slowest 1 % are not shown"
        alt += "".join(f"; {name} {value:g} ms" for name, value in limits.items())
        head = ["candidate", "inferences", "p50, ms", "p90, ms", "p99, ms"]
        yield figure(charts.distribution(points, limits), alt, table(head, cells, " nnnn"))
    yield "</div>"
    yield from _conditions(run)


def _conditions(run: RunData) -> Iterator[str]:
    """Remarks on the latencies: protocol, throttling, noise."""
    remarks: dict[tuple[str, str], list[str]] = {}
    for row in run.result["rows"]:
        measured = row.get("measurement") or {}
        quick = ["quick protocol"] if measured.get("protocol") == "quick" else []
        drift = [f"drifted by {measured['drift']:.2f}"] if measured.get("steady") is False else []
        lines = [*quick, *measured.get("doubts", ()), *drift, *measured.get("notes", ())]
        if lines:
            remarks.setdefault((row["target"], "; ".join(lines)), []).append(name_of(row))
    if remarks:
        cells = [[target, ", ".join(names), line] for (target, line), names in remarks.items()]
        yield table(["target", "candidates", "remarks"], cells, "  w", stacked=True)


def _sqnr(row: Mapping[str, Any]) -> str:
    """The SQNR in dB; after QAT also the SQNR against the simulation."""
    sqnr = shown(figure_of(row, "agreement", "sqnr_db"), ".1f")
    simulation = figure_of(row, "agreement", "simulation_db")
    return sqnr if simulation is None else f"{sqnr} ({simulation:.1f} against its simulation)"


def candidates(run: RunData) -> Iterator[str]:
    """Every row of the result, with the reason why it ships or not."""
    metric = str(run.result["metric"])
    agreed = str(run.result.get("agreed", "same class"))
    head = ["target", "candidate", "outcome", metric, agreed, "SQNR, dB", "largest error",
            "latency / fp32", "reason and notes"]  # fmt: skip
    rows = []
    for row in run.result["rows"]:
        ratio = row["measurement"]["ratio"] if row.get("measurement") else None
        reasons = [row["detail"], *row["notes"]] if ships(run, row) else [row["detail"]]
        rows.append(
            [
                row["target"],
                name_of(row) + (" (ships)" if ships(run, row) else ""),
                str(row["outcome"] or "not judged"),
                shown(figure_of(row, "agreement", "metric"), ".4f"),
                shown(figure_of(row, "agreement", "task_agreement"), ".4f"),
                _sqnr(row),
                shown(figure_of(row, "agreement", "max_abs_error"), ".2g"),
                f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
                if ratio
                else "",
                "; ".join(filter(None, reasons)),
            ]
        )
    yield f"<h2>All candidates</h2>{table(head, rows, '  snnnnnw', stacked=True)}"
    yield "<p><small>Each file ran in its own runtime on the whole test split. The eight samples "
    yield "that it reproduces worst are in verify/TARGET-CANDIDATE/worst.npz.</small></p>"


def instructions(run: RunData) -> Iterator[str]:
    """The instruction counts on emulated cores, for targets that no device timed."""
    counted = [row for row in run.result["rows"] if row.get("core_instructions")]
    if not counted:
        return
    cores = list(dict.fromkeys(core for row in counted for core in row["core_instructions"]))
    rows = []
    for row in counted:
        ours = [other for other in counted if other["target"] == row["target"]]
        first = next((other for other in ours if name_of(other) == "fp32"), None)
        cells = []
        for core in cores:
            count = row["core_instructions"].get(core)
            whole = first["core_instructions"].get(core) if first else None
            share = f" ({count / whole:.2f})" if count and whole else ""
            cells.append(f"{count:,}{share}" if count else "not counted")
        rows.append([row["target"], name_of(row), *cells])
    head = ["target", "candidate", *(f"{core} (ratio to fp32)" for core in cores)]
    yield f"<h2>Instructions per inference</h2>{table(head, rows, '  ' + 'n' * len(cores))}"
    yield "<p><small>Counted on one thread of emulated cores, because no device of the target was "
    yield "available: cortex-a76 has int8 dot products, cortex-a72 does not. An instruction count "
    yield "is not a latency, and does not decide what ships.</small></p>"
