"""The charts of a report: the Pareto front, and a distinct mark for each candidate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekd.report import charts
from edgekd.report.layers import layers
from edgekd.report.run_data import RunData
from tests.support.skips import need_modules


def point(size: float, value: float) -> dict[str, Any]:
    return {"bytes": size, "accuracy": value, "name": f"{size:g}", "ships": False}


POINTS = [point(3, 0.9), point(1, 0.7), point(2, 0.6), point(4, 0.9), point(3, 0.8)]


def test_exactly_the_candidates_that_no_other_beats_are_on_the_pareto_front() -> None:
    front = charts.front(POINTS, "bytes", "accuracy")
    assert [row["bytes"] for row in front] == [1, 3]

    def beats(one: dict[str, Any], other: dict[str, Any]) -> bool:
        better = one["bytes"] <= other["bytes"] and one["accuracy"] >= other["accuracy"]
        return better and one != other

    for row in POINTS:
        assert any(beats(each, row) for each in POINTS) is (row not in front)


def test_a_smaller_error_is_better() -> None:
    front = charts.front(POINTS, "bytes", "accuracy", smaller_is_better=True)
    assert [row["accuracy"] for row in front] == [0.7, 0.6]


@pytest.mark.parametrize(("budget", "label"), [(3.5, "budget 3.5"), (400.0, "off the scale")])
def test_a_budget_is_drawn_or_labelled_as_off_the_scale(budget: float, label: str) -> None:
    need_modules("vl_convert")
    svg = charts.scatter(POINTS[:2], "bytes", "accuracy", budget)
    assert label in svg


def test_candidates_differ_by_shape_and_lines_by_dash() -> None:
    need_modules("vl_convert")
    assert len(charts.SHAPES) == len(charts.DASHES) == len(charts.COLOURS)
    rows = [
        {"epoch": epoch, "loss": 1 / epoch, "name": name}
        for name in ("train", "distill")
        for epoch in (1, 2, 3)
    ]
    svg = charts.curves(rows, "loss")
    assert 'stroke-dasharray="6,3"' in svg


def test_the_noisiest_layer_is_drawn_and_named_first() -> None:
    need_modules("vl_convert")
    common = {"kind": "Conv2d", "low": 0.0, "high": 1.0, "saturated_frac": None, "outliers": {}}
    analysed = [
        {"module": name, "sqnr_db": sqnr, **common}
        for name, sqnr in (("first", 30.0), ("second", 9.0), ("unknown", None))
    ]
    documents = {"pi-int8": analysed, "pi-fp16": [analysed[2]]}
    page = "".join(layers(RunData(Path("run"), {}, {}, {}, {}, {}, {}, documents)))
    assert page.count("<svg") == 1
    assert page.index(">second<") < page.index(">first<")
    assert "the noisiest is second" in page
