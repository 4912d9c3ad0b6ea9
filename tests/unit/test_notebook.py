"""Results show themselves in a notebook, and a name in them is only a name."""

from __future__ import annotations

from pathlib import Path

import edgekd
from edgekd.evidence import Agreement, Choice, Measurement, Outcome, Row
from edgekd.result import RunResult


def agreement(detail: str = "") -> Agreement:
    return Agreement(10, 0.01, 40.0, 1.0, 0.9, 0.9, "device", {}, Outcome.PASSED, detail)


def test_a_run_shows_its_candidates_and_what_ships() -> None:
    row = Row("<b>pi</b>", "onnx", "int8", Outcome.PASSED, agreement=agreement())
    chosen = {"<b>pi</b>": Choice.of(row, "it is faster & smaller")}
    result = RunResult("net", Path("runs"), (row,), chosen, True, 0, "accuracy")
    shown = result._repr_html_()
    assert "&lt;b&gt;pi&lt;/b&gt;" in shown
    assert "<b>pi</b>" not in shown
    assert "faster &amp; smaller" in shown
    assert "0.9000" in shown
    assert shown.count("<tr>") == 2


def test_figures_show_themselves_and_leave_out_what_is_not_known() -> None:
    found = agreement("why")._repr_html_()
    assert "passed" in found
    assert "sqnr_db</td><td>40" in found
    times = Measurement(((1_000_000,) * 60,), 10, 2.0, 1.5, None, 1, "device")
    assert isinstance(times, edgekd.Measurement)
    shown = times._repr_html_()
    assert "60 inferences on 1 thread(s)" in shown
    assert "peak memory" not in shown
    assert "1.0000" in shown
