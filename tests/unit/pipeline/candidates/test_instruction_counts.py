"""Instruction counts on two Arm cores: the note of a candidate, and targets without counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekd.artifacts.artifact import describe
from edgekd.artifacts.target import Budget, load_target
from edgekd.evidence.candidate import Candidate
from edgekd.evidence.outcome import Outcome
from edgekd.pipeline.candidates.instruction_counts import comparison, with_instruction_counts
from edgekd.pipeline.candidates.state import DeploymentTarget
from edgekd.system.store import Run


def counted_row(scheme: str, a76: int, a72: int) -> Candidate:
    counts = {"cortex-a76": a76, "cortex-a72": a72}
    return Candidate("board", "litert", scheme, Outcome.PASSED, core_instructions=counts)


@pytest.mark.parametrize(
    ("small", "note"),
    [
        (
            (61, 118),
            "int8 takes 0.61 of fp32's instructions on a core with dot products, 1.18 on a core "
            "without them; counted on emulated cores, not a latency",
        ),
        ((120, 140), "without them: more on both; counted"),
        ((101, 140), "1.40 on a core without them; counted"),
    ],
)
def test_the_note_says_if_a_candidate_takes_more_instructions_on_both_cores(
    small: tuple[int, int], note: str
) -> None:
    plain, row = counted_row("fp32", 100, 100), counted_row("int8", *small)
    assert note in str(comparison(row, {"fp32": plain, "int8": row}))
    assert comparison(plain, {"fp32": plain, "int8": row}) is None
    assert comparison(row, {"int8": row}) is None


def test_without_an_emulator_the_run_says_how_to_set_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "model.tflite").write_bytes(b"any")
    artifact = describe(tmp_path / "model.tflite", "litert", "fp32")
    lines: list[str] = []

    def progress(*args: Any) -> None:
        lines.append(" ".join(args[:2]))

    run = Run(tmp_path / "run", tmp_path / "store", 0, progress)
    work: Any = None
    board = load_target("raspberry-pi-5-litert")
    row = Candidate(board.name, "litert", "fp32", Outcome.PASSED, artifact=artifact)
    goal = DeploymentTarget(board, Budget(), "latency", required=True)
    assert with_instruction_counts({3: row}, goal, work, run) == {3: row}
    assert len(lines) == 1
    assert "run edgekd devices setup emulated to count its instructions" in lines[0]
    # Nothing to say of what agrees with nothing, of no Arm processor, and of a GPU's work.
    for target, outcome in (
        (board, Outcome.DISAGREES),
        (load_target("x86-cpu-litert"), Outcome.PASSED),
        (replace(board, accelerator="gpu"), Outcome.PASSED),
    ):
        other = replace(row, outcome=outcome)
        goal = DeploymentTarget(target, Budget(), "latency", required=True)
        assert with_instruction_counts({3: other}, goal, work, run) == {3: other}
    assert len(lines) == 1
