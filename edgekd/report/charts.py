"""Charts of a report, as SVG: drawn by Vega-Lite, in the page's own colours, without a script.

What a colour says is said by a shape or a dash too.

Source: https://vega.github.io/vega-lite/docs/ and https://github.com/vega/vl-convert
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.system.packages import need

WIDTH, HEIGHT = 280, 190
"""So small that a phone shows the letters in their size, and a wide page three of a kind."""

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
    # Above its axis: a browser's letters may be wider than those it was laid out with.
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
"""Each at least 3.5 to 1 against the page's white and against its black (WCAG 2.2, 1.4.11)."""

BEYOND = 3.0
"""A budget so many times the largest figure is told at the edge: drawn to scale, it would leave
nothing of the figures to be seen."""

SHOWN = 0.99
"""Of a distribution this share fills the plot: one stop of the machine would else be its width."""

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
    """Those of `rows` that no other beats in both, by ascending `x`, of which less is better."""
    sign = 1.0 if smaller_is_better else -1.0
    kept: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (float(row[x]), sign * float(row[y]))):
        if not kept or sign * float(row[y]) < sign * float(kept[-1][y]):
            kept.append(dict(row))
    return kept


def scatter(
    rows: Rows, x: str, y: str, limit: float | None = None, *, smaller_is_better: bool = False
) -> str:
    """Candidates, each a shape and a colour of its own, over a line that joins those which no
    other beats in both; `limit` of `x`, if any, is a rule.

    Args:
        rows: with `x`, `y`, "name", and "ships", which is filled.
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
    """The share of inferences that took at most so long, a line per candidate; budgets as rules.

    Args:
        rows: "ms", "share" and "name".
        limits: by name, such as "p90 budget", in ms.
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
    told = (_rule(each, x, HEIGHT - 10 - 16 * line) for line, each in enumerate(rules))
    return drawn({"layer": [lines, *told]})


def curves(rows: Rows, y: str) -> str:
    """A figure by epoch, a line per "name"."""
    epochs = [float(row["epoch"]) for row in rows]
    scale = {"domain": [min(epochs), max(epochs)], "nice": False}
    ticks: dict[str, Any] = {"format": "d"}
    if len(set(epochs)) < 8:
        ticks["values"] = sorted(set(epochs))
    x = {**_axis("epoch", zero=False), "scale": scale, "axis": ticks}
    return drawn(_lines(rows, x, _axis(y, zero=False), point=len(set(epochs)) < 3))


def bars(rows: Rows, x: str, y: str) -> str:
    """A bar a row, from zero to its `x`, under its name `y`, in the order given."""
    name = {**_axis(y, zero=True), "type": "nominal", "sort": None, "title": None, "scale": {}}
    name["axis"] = {"labelLimit": 180, "labelOverlap": False}
    mark = {"type": "bar", "fill": COLOURS[0]}
    length = {**_axis(x, zero=True), "scale": {"zero": True}}
    encoding = {"x": length, "y": name}
    height = {"height": 22 * len(rows)}
    return drawn({"data": {"values": list(rows)}, "mark": mark, "encoding": encoding, **height})


def kept(rows: Rows, promise: float) -> str:
    """The share that agrees by the share that is kept, a line per "name"; `promise` a rule.

    Args:
        rows: "kept", "share" and "name".
    """
    x = {**_axis("kept", zero=True), "title": "share of the samples that is kept"}
    y = {**_axis("share", zero=False), "title": "of these, agree with the teacher"}
    rule = {
        "data": {"values": [{"share": promise}]},
        "mark": {"type": "rule", "stroke": PLAIN, "strokeDash": [3, 3]},
        "encoding": {"y": {"field": "share", "type": "quantitative"}},
    }
    return drawn({"layer": [_lines(rows, x, y, point={"size": 20}), rule]})


def _lines(rows: Rows, x: Any, y: Any, **mark: Any) -> dict[str, Any]:
    """A line per "name", each of its own dash and colour."""
    names = list(dict.fromkeys(str(row["name"]) for row in rows))
    colour = _by_name(names, COLOURS)
    dash = _by_name(names, DASHES)
    return {
        "data": {"values": list(rows)},
        "mark": {"type": "line", "strokeWidth": 2, **mark},
        "encoding": {"x": x, "y": y, "stroke": colour, "strokeDash": dash},
    }


def _by_name(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """One of `values` for each name, over again where they are more."""
    found = [values[number % len(values)] for number in range(len(names))]
    scale = {"domain": list(names), "range": found}
    longest = max(map(len, names), default=0)
    legend = {"columns": 3 if longest <= 8 else 2 if longest <= 16 else 1, "columnPadding": 28}
    return {"field": "name", "type": "nominal", "title": None, "scale": scale, "legend": legend}


def _axis(field: str, *, zero: bool) -> dict[str, Any]:
    # A dot or bracket in a field's name is a path to Vega.
    escaped = field.replace("\\", "\\\\").replace(".", "\\.").replace("[", "\\[")
    scale = {"zero": zero, "padding": 18}
    return {"field": escaped, "type": "quantitative", "title": field, "scale": scale}


def _limit(value: float, field: str, name: str, largest: float) -> dict[str, Any]:
    """Where the rule of a budget is drawn, and what is written beside it."""
    if value > BEYOND * largest:
        return {
            "at": 1.2 * largest,
            "field": field,
            "told": f"{name} {value:,.10g}: far beyond \u2192",
        }
    return {"at": value, "field": field, "told": f"{name} {value:,.10g}"}


def _rule(limit: Mapping[str, Any], x: Mapping[str, Any], y: int = 8) -> dict[str, Any]:
    """The rule of a budget; its words to its left, as it is most often at the right edge, so many
    pixels under the top, where little else is."""
    field = limit["field"]
    data = {"values": [{field: limit["at"], "told": limit["told"]}]}
    at = {"x": x}
    words = {
        "mark": {"type": "text", "align": "right", "dx": -5, "y": y},
        "encoding": {**at, "text": {"field": "told"}},
    }
    rule = {"mark": {"type": "rule", "stroke": PLAIN, "strokeDash": [3, 3]}, "encoding": at}
    return {"data": data, "layer": [rule, words]}
