"""Every candidate of a run: trade-offs, latencies, and why it ships or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil
from typing import Any

from edgekd.evidence.measurement import LEAST_OF_P99
from edgekd.report import charts
from edgekd.report.html import figure, table
from edgekd.report.run_data import RunData, budget_of, figure_of, name_of, ships, shown, targets_of

POINTS = 200
"""Of a line of a distribution: as many as a plot of this width shows."""


def trade_offs(run: RunData) -> Iterator[str]:
    """Accuracy against time and size, a plot each by target."""
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
            unbeaten = charts.front(points, x, metric, smaller_is_better=smaller)
            alt = f"{target}: {metric} against {x}; "
            alt += f"{best} ships and is filled; " if best else "none ships; "
            alt += f"unbeaten in both, on the line: {', '.join(str(p['name']) for p in unbeaten)}"
            cells = [[str(p["name"]), f"{p[x]:g}", f"{p[metric]:.4f}"] for p in points]
            figures.append(figure(svg, alt, table(["candidate", x, metric], cells, " nn")))
    if figures:
        yield f'<h2>What accuracy costs</h2><div class="plots">{"".join(figures)}</div>'


def latencies(run: RunData) -> Iterator[str]:
    """The distribution of single times by target, with its budgets."""
    if not run.samples_ms:
        yield "<h2>Latency</h2><p>Nothing was timed, or its single times were not kept.</p>"
        return
    yield '<h2>Latency</h2><div class="plots">'
    for target, found in run.samples_ms.items():
        points, cells = [], []
        # In the order of the rows, so that a candidate has one colour in all plots of its target.
        ranks = [name_of(row) for row in run.result["rows"] if row["target"] == target]
        for name, times in sorted(found.items(), key=lambda item: ranks.index(item[0])):
            ordered = sorted(times)
            step = max(1, len(ordered) // POINTS)
            points += [
                {"ms": ordered[i], "share": (i + 1) / len(ordered), "name": name}
                for i in range(0, len(ordered), step)
            ]
            at = [ordered[max(0, ceil(f * len(ordered)) - 1)] for f in (0.5, 0.9, 0.99)]
            told = [f"{ms:.4f}" for ms in at]
            told[2] = told[2] if len(ordered) >= LEAST_OF_P99 else "too few"
            cells.append([name, str(len(ordered)), *told])
        names = {f"latency_p{p}_ms": f"p{p} budget" for p in (50, 90, 99)}
        budget = budget_of(run, target)
        limits = {told: budget[key] for key, told in names.items() if key in budget}
        alt = f"{target}: share of inferences that took at most so many ms, by candidate"
        alt += "; the slowest 1 % lie to the right"
        alt += "".join(f"; {name} {value:g} ms" for name, value in limits.items())
        head = ["candidate", "inferences", "p50 ms", "p90 ms", "p99 ms"]
        yield figure(charts.distribution(points, limits), alt, table(head, cells, " nnnn"))
    yield "</div>"
    yield from _conditions(run)


def _conditions(run: RunData) -> Iterator[str]:
    """What there is to know of the figures: how much was measured, throttling, noise."""
    told: dict[tuple[str, str], list[str]] = {}
    for row in run.result["rows"]:
        found = row.get("measurement") or {}
        quick = ["quick: a first impression"] if found.get("protocol") == "quick" else []
        steady = [f"drifted by {found['drift']:.2f}"] if found.get("steady") is False else []
        lines = [*quick, *found.get("doubts", ()), *steady, *found.get("notes", ())]
        if lines:
            told.setdefault((row["target"], "; ".join(lines)), []).append(name_of(row))
    if told:
        cells = [[target, ", ".join(names), line] for (target, line), names in told.items()]
        yield table(["target", "candidates", "of their figures"], cells, "  w", stacked=True)


def _sqnr(row: Mapping[str, Any]) -> str:
    """In dB, and of what was trained to be rounded, that against its simulation."""
    told = shown(figure_of(row, "agreement", "sqnr_db"), ".1f")
    simulation = figure_of(row, "agreement", "simulation_db")
    return told if simulation is None else f"{told} ({simulation:.1f} of its simulation)"


def candidates(run: RunData) -> Iterator[str]:
    """Every row of the result, with why it ships or not."""
    metric = str(run.result["metric"])
    agreed = str(run.result.get("agreed", "same class"))
    head = ["target", "candidate", "outcome", metric, agreed, "SQNR dB", "worst error",
            "time / fp32", "why, and what its target does not run well"]  # fmt: skip
    rows = []
    for row in run.result["rows"]:
        ratio = row["measurement"]["ratio"] if row.get("measurement") else None
        told = [row["detail"], *row["notes"]] if ships(run, row) else [row["detail"]]
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
                "; ".join(filter(None, told)),
            ]
        )
    yield f"<h2>Every candidate</h2>{table(head, rows, '  snnnnnw', stacked=True)}"
    yield "<p><small>Each ran in its own runtime on the whole test split. The eight samples that "
    yield "it reproduces worst lie in verify/TARGET-CANDIDATE/worst.npz.</small></p>"


def instructions(run: RunData) -> Iterator[str]:
    """What each candidate executes on emulated cores, where no board timed its target."""
    counted = [row for row in run.result["rows"] if row.get("core_instructions")]
    if not counted:
        return
    cores = list(dict.fromkeys(core for row in counted for core in row["core_instructions"]))
    rows = []
    for row in counted:
        floats = [each for each in counted if each["target"] == row["target"]]
        first = next((each for each in floats if name_of(each) == "fp32"), None)
        cells = []
        for core in cores:
            count = row["core_instructions"].get(core)
            whole = first["core_instructions"].get(core) if first else None
            share = f" ({count / whole:.2f})" if count and whole else ""
            cells.append(f"{count:,}{share}" if count else "not counted")
        rows.append([row["target"], name_of(row), *cells])
    head = ["target", "candidate", *(f"{core}, of fp32's" for core in cores)]
    yield f"<h2>Instructions of an inference</h2>{table(head, rows, '  ' + 'n' * len(cores))}"
    yield "<p><small>Counted on one thread of emulated cores, as no board of the target's kind was "
    yield "at hand: cortex-a76 has dot products of int8, cortex-a72 has none. A count is no time, "
    yield "and decides nothing of what ships.</small></p>"
