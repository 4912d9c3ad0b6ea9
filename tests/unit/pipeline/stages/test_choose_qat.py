"""A QAT candidate ships only if QAT improved it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgekd.evidence.candidate import Candidate
from edgekd.evidence.outcome import Outcome
from edgekd.pipeline.stages.choose import choose
from tests.unit.evidence.test_verdicts import row


def qat(validation: float) -> Candidate:
    candidate = replace(
        row("int8", size=300, ratio=(0.5, 0.49, 0.51)), network="qat", method="min-max"
    )
    assert candidate.agreement is not None
    return replace(candidate, agreement=replace(candidate.agreement, validation_metric=validation))


def post_training(validation: float, outcome: Outcome = Outcome.PASSED) -> Candidate:
    candidate = row("int8", size=300, ratio=(0.5, 0.49, 0.51))
    assert candidate.agreement is not None
    agreement = replace(candidate.agreement, validation_metric=validation)
    return replace(candidate, agreement=agreement, outcome=outcome)


@pytest.mark.parametrize(("validation", "ships"), [(0.95, True), (0.9, False), (0.85, False)])
def test_qat_pays_off_if_its_validation_metric_is_higher(validation: float, ships: bool) -> None:
    choice, rows = choose([row("fp32"), post_training(0.9), qat(validation)], "latency")
    assert (choice.candidate == "qat-int8") == ships
    assert ("after QAT" in rows[-1].detail) != ships


def test_qat_pays_off_if_no_post_training_quantized_file_passed() -> None:
    rows = [post_training(0.9, Outcome.DISAGREES), qat(0.8)]
    assert choose(rows, "latency")[0].candidate == "qat-int8"


def test_a_qat_candidate_is_compared_with_the_float32_student() -> None:
    assert qat(0.9).name == "qat-int8"
    assert qat(0.9).in_float == "fp32"
    assert replace(post_training(0.9), network="unpruned").in_float == "unpruned-fp32"


def as_error(candidate: Candidate) -> Candidate:
    """`candidate`, its metric an error: smaller is better."""
    assert candidate.agreement is not None
    return replace(candidate, agreement=replace(candidate.agreement, smaller_is_better=True))


@pytest.mark.parametrize(("validation", "ships"), [(0.05, True), (0.1, False), (0.2, False)])
def test_qat_pays_off_if_its_validation_error_is_lower(validation: float, ships: bool) -> None:
    rows = [as_error(row("fp32")), as_error(post_training(0.1)), as_error(qat(validation))]
    assert (choose(rows, "latency")[0].candidate == "qat-int8") == ships
