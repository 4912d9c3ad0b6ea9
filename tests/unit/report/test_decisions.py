"""The slices of a report: what ships against the teacher, the worst first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekd.report.decisions import slices
from edgekd.report.run_data import Told


def told(smaller_is_better: bool, candidate: str | None = "fp32") -> Told:
    row: dict[str, Any] = {
        "target": "<pi>",
        "candidate": "fp32",
        "agreement": {"slices": {"day": 0.9, "night": 0.7, "dusk": None}},
    }
    result = {
        "metric": "accuracy",
        "smaller_is_better": smaller_is_better,
        "teacher": {"slices": {"day": 0.8, "night": 0.9, "dusk": None}},
        "rows": [row],
        "chosen": {"<pi>": {"candidate": candidate}},
    }
    return Told(Path("run"), result, {}, {}, {}, {}, {}, {})


@pytest.mark.parametrize(("smaller", "first"), [(False, "night"), (True, "day")])
def test_the_slice_that_loses_most_comes_first(smaller: bool, first: str) -> None:
    page = "".join(slices(told(smaller)))
    body = page[page.index("<tbody>") :]
    places = {name: body.index(name) for name in ("day", "night", "dusk")}
    assert min(places, key=lambda name: places[name]) == first
    assert ("-0.2000" in body) is not smaller
    assert "&lt;pi&gt;" in page


def test_what_does_not_ship_and_runs_without_slices_say_nothing() -> None:
    assert "".join(slices(told(False, None))) == ""
