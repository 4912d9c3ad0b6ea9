"""The charts of a report as SVG: drawn by Vega-Lite, in the page's colours, without a script.

Colour is never the only signal: a shape or a dash says the same.

Source: https://vega.github.io/vega-lite/docs/ and https://github.com/vega/vl-convert
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.system.packages import need

WIDTH, HEIGHT = 280, 190
"""In pixels: a phone shows the text at its size, a wide page three charts in a row."""

PLAIN = "currentColor"
CONFIG = {
    "view": {"stroke": None},
    "font": "system-ui, sans-serif",
    "axis": {
        "labelColor": PLAIN,
        "titleColor": PLAIN,
        "domainColor": "#888888",
        "tickColor": "#888888",
        "gridColor": "#8888884d",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelOverlap": "greedy",
        "labelSeparation": 8,
        "tickCount": 5,
    },
    # Above the axis: a browser's font may be wider than that of the layout.
    "axisY": {
        "titleAngle": 0,
        "titleAlign": "left",
        "titleBaseline": "bottom",
        "titleX": -28,
        "titleY": -10,
    },
    "legend": {
        "labelColor": PLAIN,
        "titleColor": PLAIN,
        "labelFontSize": 12,
        "labelLimit": 240,
        "orient": "bottom",
        "symbolStrokeWidth": 2,
    },
    "text": {"fill": PLAIN, "fontSize": 12},
}
COLOURS = ["#3b82c4", "#c8711a", "#2a8f62", "#b8559f", "#85801f", "#cc4b4b"]
"""Each has a contrast of at least 3.5:1 on white and on black (WCAG 2.2, 1.4.11)."""

BEYOND = 3.0
"""A budget over this multiple of the largest figure is written at the edge: to scale, it would
squeeze the figures."""

SHOWN = 0.99
"""The share of a distribution that fills the plot, so that one outlier does not set its width."""

SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"]
DASHES = [[1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [4, 4], [1, 3]]
Rows = Sequence[Mapping[str, Any]]


def drawn(spec: Mapping[str, Any]) -> str:
    """The Vega-Lite chart `spec` as SVG.

    Raises:
        MissingPackageError: vl-convert is not installed.
    """
    library = need("vl_convert", extra="report")
    whole = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "width": WIDTH,
        "height": HEIGHT,
        "config": CONFIG,
        "background": None,
        "padding": {"left": 20, "right": 16, "top": 12, "bottom": 8},
        **spec,
    }
    return str(library.vegalite_to_svg(whole))


def front(rows: Rows, x: str, y: str, *, smaller_is_better: bool = False) -> list[dict[str, Any]]:
    """The Pareto front of `rows` by ascending `x`, of which less is better."""
    sign = 1.0 if smaller_is_better else -1.0
    best: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (float(row[x]), sign * float(row[y]))):
        if not best or sign * float(row[y]) < sign * float(best[-1][y]):
            best.append(dict(row))
    return best


def scatter(
    rows: Rows, x: str, y: str, limit: float | None = None, *, smaller_is_better: bool = False
) -> str:
    """Candidates, each with its own shape and colour, over the line of the Pareto front.

    Args:
        rows: `x`, `y`, "name" and "ships"; the candidate that ships is filled.
        limit: a budget of `x`, drawn as a rule.
    """
    across = [float(row[x]) for row in rows]
    rule = [] if limit is None else [_limit(limit, x, "budget", max(across))]
    wide = [*across, *(each["at"] for each in rule)]
    point = {"x": _axis(x, zero=False), "y": _axis(y, zero=False)}
    if min(wide) > 0 and max(wide) > 5 * min(wide):
        point["x"] |= {"scale": {"type": "log", "padding": 18}, "axis": {"grid": False}}
    elif x == "bytes":
        point["x"]["axis"] = {"format": ".3~s"}
    heights = [float(row[y]) for row in rows]
    if max(heights) - min(heights) < 1e-3:
        middle = (max(heights) + min(heights)) / 2
        point["y"]["scale"] = {"domain": [middle - 0.01, middle + 0.01]}
    names = list(dict.fromkeys(str(row["name"]) for row in rows))
    best = front(rows, x, y, smaller_is_better=smaller_is_better)
    layers: list[dict[str, Any]] = [
        {
            "data": {"values": best},
            "mark": {"type": "line", "stroke": "#888888", "interpolate": "step-after"},
            "encoding": point,
        },
        {
            "data": {"values": list(rows)},
            "mark": {"type": "point", "size": 130, "strokeWidth": 2, "opacity": 1},
            "encoding": {
                **point,
                "shape": _by_name(names, SHAPES),
                "stroke": _by_name(names, COLOURS),
                "fill": {
                    "condition": {"test": "datum.ships", "value": PLAIN},
                    "value": "transparent",
                },
            },
        },
    ]
    return drawn({"layer": [*layers, *(_rule(each, point["x"]) for each in rule)]})


def distribution(rows: Rows, limits: Mapping[str, float]) -> str:
    """The cumulative distribution of the latency, one line per candidate, and budgets as rules.

    Args:
        rows: "ms", "share" and "name".
        limits: budgets in ms by name, such as "p90 budget".
    """
    x = {**_axis("ms", zero=False), "axis": {"grid": False}}
    y = {**_axis("share", zero=True), "title": "share of inferences", "axis": {"format": "%"}}
    y["scale"] = {"domain": [0, 1]}
    times = [float(row["ms"]) for row in rows]
    within = [float(row["ms"]) for row in rows if float(row["share"]) <= SHOWN]
    longest = max(within or times)
    rules = [_limit(value, "ms", name, longest) for name, value in limits.items()]
    least = min(times)
    end = max(1.2 * longest, *(each["at"] for each in rules), 1.5 * least)
    x["scale"] = {"type": "log", "nice": False, "domain": [least, end]}
    lines = _lines([row for row in rows if row["ms"] <= end], x, y, interpolate="step-after")
    layers = (_rule(each, x, HEIGHT - 10 - 16 * line) for line, each in enumerate(rules))
    return drawn({"layer": [lines, *layers]})


def curves(rows: Rows, y: str) -> str:
    """A figure by epoch, one line per "name"."""
    epochs = [float(row["epoch"]) for row in rows]
    scale = {"domain": [min(epochs), max(epochs)], "nice": False}
    ticks: dict[str, Any] = {"format": "d"}
    if len(set(epochs)) < 8:
        ticks["values"] = sorted(set(epochs))
    x = {**_axis("epoch", zero=False), "scale": scale, "axis": ticks}
    return drawn(_lines(rows, x, _axis(y, zero=False), point=len(set(epochs)) < 3))


def bars(rows: Rows, x: str, y: str) -> str:
    """One bar per row, from zero to its `x`, labelled `y`, in the given order."""
    name = {**_axis(y, zero=True), "type": "nominal", "sort": None, "title": None, "scale": {}}
    name["axis"] = {"labelLimit": 180, "labelOverlap": False}
    mark = {"type": "bar", "fill": COLOURS[0]}
    length = {**_axis(x, zero=True), "scale": {"zero": True}}
    encoding = {"x": length, "y": name}
    height = {"height": 22 * len(rows)}
    return drawn({"data": {"values": list(rows)}, "mark": mark, "encoding": encoding, **height})


def kept(rows: Rows, guarantee: float) -> str:
    """The agreement by the share of kept samples, one line per "name", and the guarantee as a rule.

    Args:
        rows: "kept", "share" and "name".
    """
    x = {**_axis("kept", zero=True), "title": "share of samples kept on the device"}
    y = {**_axis("share", zero=False), "title": "agreement with the teacher"}
    rule = {
        "data": {"values": [{"share": guarantee}]},
        "mark": {"type": "rule", "stroke": PLAIN, "strokeDash": [3, 3]},
        "encoding": {"y": {"field": "share", "type": "quantitative"}},
    }
    return drawn({"layer": [_lines(rows, x, y, point={"size": 20}), rule]})


def _lines(rows: Rows, x: Any, y: Any, **mark: Any) -> dict[str, Any]:
    """One line per "name", each with its own dash and colour."""
    names = list(dict.fromkeys(str(row["name"]) for row in rows))
    colour = _by_name(names, COLOURS)
    dash = _by_name(names, DASHES)
    return {
        "data": {"values": list(rows)},
        "mark": {"type": "line", "strokeWidth": 2, **mark},
        "encoding": {"x": x, "y": y, "stroke": colour, "strokeDash": dash},
    }


def _by_name(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """One of `values` for each name, repeated if there are more names."""
    chosen = [values[number % len(values)] for number in range(len(names))]
    scale = {"domain": list(names), "range": chosen}
    longest = max(map(len, names), default=0)
    legend = {"columns": 3 if longest <= 8 else 2 if longest <= 16 else 1, "columnPadding": 28}
    return {"field": "name", "type": "nominal", "title": None, "scale": scale, "legend": legend}


def _axis(field: str, *, zero: bool) -> dict[str, Any]:
    # Vega reads a dot or bracket in a field's name as a path.
    escaped = field.replace("\\", "\\\\").replace(".", "\\.").replace("[", "\\[")
    scale = {"zero": zero, "padding": 18}
    return {"field": escaped, "type": "quantitative", "title": field, "scale": scale}


def _limit(value: float, field: str, name: str, largest: float) -> dict[str, Any]:
    """The position of a budget's rule, and the label beside it."""
    if value > BEYOND * largest:
        return {
            "at": 1.2 * largest,
            "field": field,
            "label": f"{name} {value:,.10g}: off the scale \u2192",
        }
    return {"at": value, "field": field, "label": f"{name} {value:,.10g}"}


def _rule(limit: Mapping[str, Any], x: Mapping[str, Any], y: int = 8) -> dict[str, Any]:
    """The rule of a budget, with its label to the left, `y` pixels under the top."""
    field = limit["field"]
    data = {"values": [{field: limit["at"], "label": limit["label"]}]}
    at = {"x": x}
    label = {
        "mark": {"type": "text", "align": "right", "dx": -5, "y": y},
        "encoding": {**at, "text": {"field": "label"}},
    }
    rule = {"mark": {"type": "rule", "stroke": PLAIN, "strokeDash": [3, 3]}, "encoding": at}
    return {"data": data, "layer": [rule, label]}
