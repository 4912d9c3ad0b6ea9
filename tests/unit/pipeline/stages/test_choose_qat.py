"""A QAT candidate ships only if QAT improved it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgekd.evidence.candidate import Candidate
from edgekd.evidence.outcome import Outcome
from edgekd.pipeline.stages.choose import choose
from tests.unit.evidence.test_verdicts import row


def trained(validation: float) -> Candidate:
    found = replace(row("int8", size=300, ratio=(0.5, 0.49, 0.51)), network="qat", method="min-max")
    assert found.agreement is not None
    return replace(found, agreement=replace(found.agreement, validation_metric=validation))


def after(validation: float, outcome: Outcome = Outcome.PASSED) -> Candidate:
    found = row("int8", size=300, ratio=(0.5, 0.49, 0.51))
    assert found.agreement is not None
    agreement = replace(found.agreement, validation_metric=validation)
    return replace(found, agreement=agreement, outcome=outcome)


@pytest.mark.parametrize(("validation", "ships"), [(0.95, True), (0.9, False), (0.85, False)])
def test_training_pays_where_it_is_better_on_validation(validation: float, ships: bool) -> None:
    choice, rows = choose([row("fp32"), after(0.9), trained(validation)], "latency")
    assert (choice.candidate == "qat-int8") == ships
    assert ("after QAT" in rows[-1].detail) != ships


def test_training_pays_where_nothing_rounded_after_it_passed() -> None:
    rows = [after(0.9, Outcome.DISAGREES), trained(0.8)]
    assert choose(rows, "latency")[0].candidate == "qat-int8"


def test_a_trained_file_is_compared_with_the_student_in_float() -> None:
    assert trained(0.9).name == "qat-int8"
    assert trained(0.9).in_float == "fp32"
    assert replace(after(0.9), network="unpruned").in_float == "unpruned-fp32"
