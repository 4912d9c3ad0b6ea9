"""Results in a notebook, with escaped names."""

from __future__ import annotations

from pathlib import Path

import edgekd
from edgekd.evidence.agreement import Agreement
from edgekd.evidence.candidate import Candidate, Choice
from edgekd.evidence.measurement import Measurement
from edgekd.evidence.outcome import Outcome
from edgekd.pipeline.result import RunResult
from edgekd.system.notebook_progress import Line, Lines, default_progress
from edgekd.system.progress import no_progress


def agreement(detail: str = "") -> Agreement:
    return Agreement(10, 0.01, 40.0, 1.0, 0.9, 0.9, "device", {}, Outcome.PASSED, detail)


def test_a_run_shows_its_candidates_and_what_ships() -> None:
    row = Candidate("<b>pi</b>", "onnx", "int8", Outcome.PASSED, agreement=agreement())
    chosen = {"<b>pi</b>": Choice.of(row, "it is faster & smaller")}
    result = RunResult("net", Path("runs"), (row,), chosen, True, 0, "accuracy")
    shown = result._repr_html_()
    assert "&lt;b&gt;pi&lt;/b&gt;" in shown
    assert "<b>pi</b>" not in shown
    assert "faster &amp; smaller" in shown
    assert "0.9000" in shown
    assert shown.count("<tr>") == 2


def test_figures_are_shown_without_unknown_ones() -> None:
    found = agreement("why")._repr_html_()
    assert "passed" in found
    assert "sqnr_db</td><td>40" in found
    times = Measurement(((1_000_000,) * 60,), 10, 2.0, 1.5, None, 1, "device")
    assert isinstance(times, edgekd.Measurement)
    shown = times._repr_html_()
    assert "60 inferences on 1 thread(s)" in shown
    assert "peak memory" not in shown
    assert "1.0000" in shown


def test_lines_are_drawn_by_stage_and_names_are_escaped() -> None:
    drawn: list[str] = []
    progress = Lines(drawn.append)
    progress("train", "<b>loss</b>", 1, 4)
    assert '<progress value="1" max="4">' in drawn[-1]
    assert "&lt;b&gt;loss&lt;/b&gt;" in drawn[-1]
    for _ in range(100):
        progress("train", "quick", 2, 4)
    assert len(drawn) < 50, "not every step is drawn"
    progress("train", "", 4, 4)
    assert "4/4" in drawn[-1]
    progress("export", "onnx")
    assert drawn[-1].count("<tr>") == 2
    assert '<progress value="1" max="1">' in drawn[-1]
    assert " left" not in drawn[-1]


def test_time_left_follows_from_finished_steps() -> None:
    line = Line("", begun_s=100.0, done=3, total=12)
    assert line.left(now_s=130.0) == "1:30 left"


def test_outside_a_notebook_nothing_is_drawn() -> None:
    assert default_progress() is no_progress
