"""Charts of a report, as SVG: drawn by Vega-Lite, in the page's own colours, without a script.

Source: https://vega.github.io/vega-lite/docs/ and https://github.com/vega/vl-convert
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.need import need

WIDTH, HEIGHT = 460, 260
PLAIN = "currentColor"
CONFIG = {
    "background": None,
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
    },
    "legend": {"labelColor": PLAIN, "titleColor": PLAIN, "labelFontSize": 12, "orient": "bottom"},
    "text": {"fill": PLAIN, "fontSize": 12},
}
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
        "config": {key: value for key, value in CONFIG.items() if key != "background"},
        "background": None,
        **spec,
    }
    return str(library.vegalite_to_svg(whole))


def scatter(rows: Rows, x: str, y: str, limit: float | None = None) -> str:
    """Candidates, each a shape of its own with its name beside it; `limit` of `x`, if any, a line.

    Args:
        rows: with `x`, `y`, "name", and "ships", which is filled.
    """
    across = [float(row[x]) for row in rows] + ([limit] if limit is not None else [])
    point = {"x": _axis(x, zero=False), "y": _axis(y, zero=False)}
    if max(across) > 5 * min(across):
        point["x"]["scale"] = {"type": "log", "padding": 40}
    heights = [float(row[y]) for row in rows]
    if max(heights) - min(heights) < 1e-3:
        middle = (max(heights) + min(heights)) / 2
        point["y"]["scale"] = {"domain": [middle - 0.01, middle + 0.01]}
    names = sorted({str(row["name"]) for row in rows})
    layers: list[dict[str, Any]] = [
        {
            "mark": {"type": "point", "size": 130, "stroke": PLAIN, "strokeWidth": 1.5},
            "encoding": {
                **point,
                "shape": {
                    "field": "name",
                    "type": "nominal",
                    "scale": {"domain": names, "range": SHAPES[: len(names)] or SHAPES},
                    "legend": None,
                },
                "fill": {
                    "condition": {"test": "datum.ships", "value": PLAIN},
                    "value": "transparent",
                },
            },
        },
        {
            "mark": {"type": "text", "align": "left", "dx": 10, "dy": -8},
            "encoding": {**point, "text": {"field": "name"}},
        },
    ]
    if limit is not None:
        layers.append(_limit(limit, "x", x, scale=point["x"]["scale"]))
    return drawn({"data": {"values": list(rows)}, "layer": layers})


def distribution(rows: Rows, limits: Mapping[str, float]) -> str:
    """The share of inferences that took at most so long, a line per candidate; budgets as rules.

    Args:
        rows: "ms", "share" and "name".
        limits: by name, such as "p90 budget", in ms.
    """
    layers: list[dict[str, Any]] = [
        {
            "data": {"values": list(rows)},
            "mark": {"type": "line", "stroke": PLAIN, "interpolate": "step-after"},
            "encoding": {
                "x": {**_axis("ms", zero=False), "scale": {"type": "log", "nice": False}},
                "y": {**_axis("share", zero=True), "title": "share of inferences"},
                "strokeDash": {
                    "field": "name",
                    "type": "nominal",
                    "title": None,
                    "scale": {"range": DASHES},
                },
            },
        }
    ]
    layers += [_limit(value, "x", "ms", name) for name, value in limits.items()]
    return drawn({"layer": layers})


def curves(rows: Rows, y: str) -> str:
    """A figure by epoch, a line per "name"."""
    return drawn(
        {
            "data": {"values": list(rows)},
            "mark": {"type": "line", "stroke": PLAIN},
            "encoding": {
                "x": {**_axis("epoch", zero=False), "axis": {"tickMinStep": 1}},
                "y": _axis(y, zero=False),
                "strokeDash": {
                    "field": "name",
                    "type": "nominal",
                    "title": None,
                    "scale": {"range": DASHES},
                },
            },
        }
    )


def kept(rows: Rows, promise: float) -> str:
    """The share that agrees by the share that is kept, a line per "name"; `promise` a rule.

    Args:
        rows: "kept", "share" and "name".
    """
    lines = {
        "data": {"values": list(rows)},
        "mark": {"type": "line", "stroke": PLAIN, "point": {"fill": PLAIN, "size": 20}},
        "encoding": {
            "x": {**_axis("kept", zero=True), "title": "share of the samples that is kept"},
            "y": {**_axis("share", zero=False), "title": "of these, agree with the teacher"},
            "strokeDash": {
                "field": "name",
                "type": "nominal",
                "title": None,
                "scale": {"range": DASHES},
            },
        },
    }
    rule = {
        "data": {"values": [{"share": promise}]},
        "mark": {"type": "rule", "stroke": PLAIN, "strokeDash": [3, 3]},
        "encoding": {"y": {"field": "share", "type": "quantitative"}},
    }
    return drawn({"layer": [lines, rule]})


def _axis(field: str, *, zero: bool) -> dict[str, Any]:
    # A dot or bracket in a field's name is a path to Vega.
    escaped = field.replace("\\", "\\\\").replace(".", "\\.").replace("[", "\\[")
    scale = {"zero": zero, "padding": 18}
    return {"field": escaped, "type": "quantitative", "title": field, "scale": scale}


def _limit(
    value: float, channel: str, field: str, name: str = "budget", scale: Any = None
) -> dict[str, Any]:
    data = {"values": [{field: value, "name": name}]}
    at: dict[str, Any] = {channel: {"field": field, "type": "quantitative", "title": field}}
    if scale is not None:
        at[channel]["scale"] = scale
    rule = {"mark": {"type": "rule", "stroke": PLAIN, "strokeDash": [3, 3]}, "encoding": at}
    words = {
        "mark": {"type": "text", "align": "left", "dx": 4, "y": 8},
        "encoding": {**at, "text": {"field": "name"}},
    }
    return {"data": data, "layer": [rule, words]}
