"""The slices of a report: the shipped artifact against the teacher, the worst first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekd.report.decisions import slices
from edgekd.report.run_data import RunData


def run_data(smaller_is_better: bool, candidate: str | None = "fp32") -> RunData:
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
    return RunData(Path("run"), result, {}, {}, {}, {}, {}, {})


@pytest.mark.parametrize(("smaller", "first"), [(False, "night"), (True, "day")])
def test_the_slice_that_loses_most_comes_first(smaller: bool, first: str) -> None:
    page = "".join(slices(run_data(smaller)))
    body = page[page.index("<tbody>") :]
    positions = {name: body.index(name) for name in ("day", "night", "dusk")}
    assert min(positions, key=lambda name: positions[name]) == first
    assert ("-0.2000" in body) is not smaller
    assert "&lt;pi&gt;" in page


def test_there_is_no_section_of_slices_if_nothing_ships() -> None:
    assert "".join(slices(run_data(False, None))) == ""
