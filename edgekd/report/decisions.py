"""What artifacts decided: class by class, and which answers a device keeps."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import numpy as np

from edgekd.report import charts
from edgekd.report.html import figure, table
from edgekd.report.run_data import RunData, name_of, ships, shown

WORST = 12
"""Classes that are shown: those on which the artifact that ships loses most."""


def classes(run: RunData) -> Iterator[str]:
    """By class, what ships against the network it came from, the worst first."""
    labels = run.recipe.get("bundle", {}).get("labels", [])
    names = labels if isinstance(labels, list) else []
    made = []
    for row in run.result["rows"]:
        decided = run.decisions.get(f"{row['target']}-{name_of(row)}")
        if decided is None or not ships(run, row):
            continue
        label, ours, theirs = (decided[key] for key in ("label", "test_class", "reference_class"))
        figures = []
        for each in np.unique(label):
            of = label == each
            right, wanted = float((ours[of] == each).mean()), float((theirs[of] == each).mean())
            same = float((ours[of] == theirs[of]).mean())
            figures.append((right - wanted, same, right, wanted, int(of.sum()), int(each)))
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
        told = f"{row['target']}: {name_of(row)}"
        made.append(f"<section><h3>{escape(told)}</h3>{table(head, cells, ' nnnnn')}</section>")
    if made:
        yield "<h2>Class by class</h2>"
        yield "<p><small>Share of the test samples of a class that are told right by the student "
        yield f"and by the artifact that ships; the {WORST} worst.</small></p>"
        yield f'<div class="tables">{"".join(made)}</div>'


def slices(run: RunData) -> Iterator[str]:
    """By slice of the test split, the metric of what ships against the teacher, the worst first."""
    metric, smaller = str(run.result["metric"]), bool(run.result.get("smaller_is_better"))
    teacher = (run.result.get("teacher") or {}).get("slices") or {}
    made = []
    for row in run.result["rows"]:
        found = (row.get("agreement") or {}).get("slices") or {}
        if not found or not ships(run, row):
            continue
        drops = {}
        for name, value in found.items():
            before = teacher.get(name)
            known = value is not None and before is not None
            drops[name] = (value - before if smaller else before - value) if known else 0.0
        cells = [
            [name, shown(teacher.get(name), ".4f"), shown(found[name], ".4f"), f"{-drop:+.4f}"]
            for name, drop in sorted(drops.items(), key=lambda item: -item[1])[:WORST]
        ]
        head = ["slice", "teacher", "artifact", "better by"]
        told = f"{row['target']}: {name_of(row)}"
        made.append(f"<section><h3>{escape(told)}</h3>{table(head, cells, ' nnn')}</section>")
    if made:
        yield f"<h2>Slice by slice</h2><p><small>{escape(metric)} on groups of the test split; "
        yield f"the {WORST} that lose most against the teacher.</small></p>"
        yield f'<div class="tables">{"".join(made)}</div>'


def routes(run: RunData) -> Iterator[str]:
    """What each target keeps, and what it asks the larger model."""
    found = run.result.get("routes", {})
    if not found:
        return
    yield '<h2>Which answers the device keeps</h2><div class="plots">'
    for target, each in found.items():
        points = [
            {"kept": kept["kept_frac"], "share": kept[key], "name": name}
            for kept in each["curve"]
            for key, name in (("agreement_frac", "agree"), ("low_frac", "at least"))
        ]
        cells = [
            [
                f"{kept['threshold']:.4g}",
                f"{kept['kept_frac']:.3f}",
                f"{kept['agreement_frac']:.4f}",
                f"{kept['low_frac']:.4f}",
            ]
            for kept in each["curve"]
        ]
        told = f"{target}: {each['why']}"
        if each["test_agreement_frac"] is not None:
            told += (
                f". On test {each['test_kept_frac']:.1%} is kept, of which "
                f"{each['test_agreement_frac']:.2%} agrees"
            )
        head = ["over", "kept", "agree with the teacher", "at least"]
        svg = charts.kept(points, each["agreement"])
        yield figure(svg, told, table(head, cells, "nnnn"))
    yield "</div>"
