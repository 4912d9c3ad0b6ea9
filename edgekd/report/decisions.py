"""The decisions of artifacts by class and by slice, and the model cascade."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import numpy as np

from edgekd.report import charts
from edgekd.report.html import figure, table
from edgekd.report.run_data import RunData, name_of, ships, shown

WORST = 12
"""The number of classes or slices shown, those on which the shipped artifact loses most."""


def classes(run: RunData) -> Iterator[str]:
    """By class, the shipped artifact against its network, the worst first."""
    labels = run.recipe.get("bundle", {}).get("labels", [])
    names = labels if isinstance(labels, list) else []
    sections = []
    for row in run.result["rows"]:
        decided = run.decisions.get(f"{row['target']}-{name_of(row)}")
        if decided is None or not ships(run, row):
            continue
        label, ours, theirs = (decided[key] for key in ("label", "test_class", "reference_class"))
        figures = []
        for number in np.unique(label):
            of = label == number
            right, wanted = (float((decision[of] == number).mean()) for decision in (ours, theirs))
            same = float((ours[of] == theirs[of]).mean())
            figures.append((right - wanted, same, right, wanted, int(of.sum()), int(number)))
        figures.sort()
        cells = [
            [
                names[number] if number < len(names) else str(number),
                str(count),
                f"{wanted:.4f}",
                f"{right:.4f}",
                f"{lost:+.4f}",
                f"{same:.4f}",
            ]
            for lost, same, right, wanted, count, number in figures[:WORST]
        ]
        head = ["class", "samples", "student", "artifact", "difference", "same class"]
        title = f"{row['target']}: {name_of(row)}"
        body = table(head, cells, " nnnnn")
        sections.append(f"<section><h3>{escape(title)}</h3>{body}</section>")
    if sections:
        yield "<h2>Results by class</h2>"
        yield "<p><small>Share of a class's test samples that the student and the shipped artifact "
        yield f"classify correctly, and that both classify the same; the {WORST} worst.</small></p>"
        yield f'<div class="tables">{"".join(sections)}</div>'


def slices(run: RunData) -> Iterator[str]:
    """By slice of the test split, the shipped artifact against the teacher, the worst first."""
    metric, smaller = str(run.result["metric"]), bool(run.result.get("smaller_is_better"))
    teacher = (run.result.get("teacher") or {}).get("slices") or {}
    sections = []
    for row in run.result["rows"]:
        values = (row.get("agreement") or {}).get("slices") or {}
        if not values or not ships(run, row):
            continue
        drops = {}
        for name, value in values.items():
            before = teacher.get(name)
            known = value is not None and before is not None
            drops[name] = (value - before if smaller else before - value) if known else 0.0
        cells = [
            [name, shown(teacher.get(name), ".4f"), shown(values[name], ".4f"), f"{-drop:+.4f}"]
            for name, drop in sorted(drops.items(), key=lambda item: -item[1])[:WORST]
        ]
        head = ["slice", "teacher", "artifact", "better by"]
        title = f"{row['target']}: {name_of(row)}"
        sections.append(f"<section><h3>{escape(title)}</h3>{table(head, cells, ' nnn')}</section>")
    if sections:
        yield f"<h2>Results by slice</h2><p><small>{escape(metric)} on groups of the test split; "
        yield f"the {WORST} slices that lose most against the teacher.</small></p>"
        yield f'<div class="tables">{"".join(sections)}</div>'


def routes(run: RunData) -> Iterator[str]:
    """What each target keeps on the device, and what it defers to the larger model."""
    routes = run.result.get("routes", {})
    if not routes:
        return
    yield '<h2>Model cascade</h2><div class="plots">'
    for target, route in routes.items():
        points = [
            {"kept": kept["kept_frac"], "share": kept[key], "name": name}
            for kept in route["curve"]
            for key, name in (("agreement_frac", "measured"), ("low_frac", "lower bound"))
        ]
        cells = [
            [
                f"{kept['threshold']:.4g}",
                f"{kept['kept_frac']:.3f}",
                f"{kept['agreement_frac']:.4f}",
                f"{kept['low_frac']:.4f}",
            ]
            for kept in route["curve"]
        ]
        caption = f"{target}: {route['why']}"
        if route["test_agreement_frac"] is not None:
            caption += (
                f". On the test split the device keeps {route['test_kept_frac']:.1%} of the "
                f"answers, and {route['test_agreement_frac']:.2%} of these agree"
            )
        head = ["threshold", "kept", "agreement with the teacher", "lower bound"]
        svg = charts.kept(points, route["agreement"])
        yield figure(svg, caption, table(head, cells, "nnnn"))
    yield "</div>"
