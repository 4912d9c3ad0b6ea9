"""The verdicts of edgekd on made-up figures: agreement, budgets and choices."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edgekd.artifacts.artifact import Artifact
from edgekd.artifacts.scheme import SCHEMES
from edgekd.artifacts.target import Budget, Evidence
from edgekd.errors import ConversionError
from edgekd.evidence.agreement import Agreement
from edgekd.evidence.budget import judge_budget
from edgekd.evidence.candidate import Candidate
from edgekd.evidence.measurement import Measurement, Ratio
from edgekd.evidence.outcome import Outcome
from edgekd.pipeline.stages.choose import choose
from edgekd.verification.compare import compare

REFERENCE = {"output": torch.randn(200, 5, generator=torch.Generator().manual_seed(0))}


def agreement(outputs: dict[str, torch.Tensor], scheme: str = "fp32") -> Agreement:
    return compare(
        REFERENCE, outputs, scheme=scheme, min_agreement=0.99, evidence="host", runtime={}
    )


def noisy(sqnr_db: float) -> dict[str, torch.Tensor]:
    """The reference with noise of that level."""
    noise = torch.randn(200, 5, generator=torch.Generator().manual_seed(1)).double()
    signal = REFERENCE["output"].double()
    scale = signal.norm() / noise.norm() / 10 ** (sqnr_db / 20)
    return {"output": signal + scale * noise}


def test_equal_outputs_have_an_infinite_sqnr_and_survive_json() -> None:
    found = agreement(dict(REFERENCE))
    assert (found.sqnr_db, found.max_abs_error, found.top1_agreement_frac) == (math.inf, 0, 1)
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["sqnr_db"] is None
    assert Agreement.from_json(document) == found


@pytest.mark.parametrize("sqnr_db", [20.0, 60.0, 100.0])
def test_sqnr_is_the_ratio_of_powers_in_decibel(sqnr_db: float) -> None:
    assert agreement(noisy(sqnr_db)).sqnr_db == pytest.approx(sqnr_db, abs=0.01)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_conversion_under_the_floor_of_its_scheme_disagrees(scheme: str) -> None:
    floor = SCHEMES[scheme].sqnr_floor_db
    under = agreement(noisy(floor - 1), scheme)
    assert under.outcome is Outcome.DISAGREES
    assert "SQNR" in under.detail


def test_samples_of_another_class_disagree_at_any_sqnr() -> None:
    outputs = REFERENCE["output"].clone()
    tied = REFERENCE["output"].clone()
    tied[:10] = 0.0
    tied[:10, 0] = 1e-6
    outputs[:10] = 0.0
    outputs[:10, 1] = 1e-6
    found = compare(
        {"output": tied},
        {"output": outputs},
        scheme="fp32",
        min_agreement=0.99,
        evidence="host",
        runtime={},
    )
    assert found.top1_agreement_frac == 0.95
    assert found.outcome is Outcome.DISAGREES


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_output_that_is_not_finite_never_agrees(value: float) -> None:
    outputs = {"output": REFERENCE["output"].clone()}
    outputs["output"][3, 2] = value
    found = agreement(outputs)
    assert found.outcome is Outcome.DISAGREES
    assert "not finite" in found.detail
    assert found.max_abs_error is None
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert Agreement.from_json(document) == found


def test_outputs_without_classes_have_no_top1_agreement() -> None:
    images = {"output": torch.randn(4, 3, 8, 8)}
    found = compare(images, images, scheme="fp32", min_agreement=0.99, evidence="host", runtime={})
    assert found.top1_agreement_frac is None
    assert found.outcome is Outcome.PASSED


def test_outputs_of_other_names_are_an_error() -> None:
    with pytest.raises(ConversionError, match="outputs are not the network's"):
        agreement({"logits": REFERENCE["output"]})


def measured(
    ms: float = 1.0,
    *,
    spread: float = 0.01,
    count: int = 300,
    evidence: Evidence = "device",
    ratio: tuple[float, float, float] | None = None,
    late: float = 1.0,
) -> Measurement:
    """A measurement of about `ms`, `late` times as slow in its last third."""
    generator = torch.Generator().manual_seed(0)
    samples = 1e6 * ms * (1 + spread * torch.rand(count, generator=generator))
    samples[-(count // 3) :] *= late
    return Measurement(
        samples_ns=(tuple(int(sample) for sample in samples),),
        warm_up_count=10,
        init_ms=5.0,
        first_ms=2.0,
        peak_memory_bytes=50_000_000,
        threads=1,
        evidence=evidence,
        ratio=Ratio("fp32", *ratio) if ratio else None,
    )


@pytest.mark.parametrize(
    ("budget", "outcome"),
    [
        (Budget(), Outcome.PASSED),
        (Budget(latency_p90_ms=2.0), Outcome.PASSED),
        (Budget(latency_p90_ms=0.5), Outcome.OVER_BUDGET),
        (Budget(size_bytes=100), Outcome.OVER_BUDGET),
        (Budget(size_bytes=1000), Outcome.PASSED),
        (Budget(peak_memory_bytes=1000), Outcome.OVER_BUDGET),
        (Budget(latency_p50_ms=2.0, latency_p99_ms=1.0), Outcome.OVER_BUDGET),
    ],
)
def test_a_budget_is_kept_or_missed(budget: Budget, outcome: Outcome) -> None:
    verdict = judge_budget(1000, measured(count=600), budget)
    assert verdict.outcome is outcome
    assert bool(verdict.detail) == (outcome is not Outcome.PASSED)


def test_processes_that_disagree_leave_a_budget_undecided() -> None:
    fast, slow = measured(1.0), measured(1.2)
    both = replace(fast, samples_ns=fast.samples_ns * 9 + slow.samples_ns)
    assert both.percentile_ms(0.5).high < 1.1
    verdict = judge_budget(1, both, Budget(latency_p50_ms=1.1))
    assert verdict.outcome is Outcome.UNDECIDED
    assert "by process" in verdict.detail


@pytest.mark.parametrize("limit", [1, 2**40])
def test_memory_measured_on_the_host_decides_no_budget(limit: int) -> None:
    verdict = judge_budget(1, measured(evidence="host"), Budget(peak_memory_bytes=limit))
    assert verdict.outcome is Outcome.UNDECIDED


def test_a_limit_inside_the_interval_is_undecided_never_passed() -> None:
    found = measured(spread=0.5)
    limit = found.percentile_ms(0.9).value
    assert judge_budget(1, found, Budget(latency_p90_ms=limit)).outcome is Outcome.UNDECIDED
    few = measured(count=20)
    assert judge_budget(1, few, Budget(latency_p90_ms=100.0)).outcome is Outcome.UNDECIDED


@pytest.mark.parametrize("evidence", ["host", "emulated", "reference"])
def test_a_latency_that_is_not_of_the_device_decides_no_budget(evidence: Evidence) -> None:
    verdict = judge_budget(1, measured(evidence=evidence), Budget(latency_p90_ms=100.0))
    assert verdict.outcome is Outcome.UNDECIDED
    assert evidence in verdict.detail


def test_the_sustained_latency_is_judged_if_it_drifts() -> None:
    found = measured(late=2.0)
    assert not found.steady
    assert judge_budget(1, found, Budget(latency_p50_ms=1.6)).outcome is Outcome.OVER_BUDGET
    assert found.percentile_ms(0.5).value < 1.6, "as a whole it would keep the budget"


def test_a_latency_that_falls_is_judged_as_a_whole() -> None:
    found = measured(late=0.5)
    assert found.steady
    assert judge_budget(1, found, Budget(latency_p50_ms=1.2)).outcome is Outcome.PASSED


@pytest.mark.parametrize("limit", [0.5, 1.5])
def test_a_flagged_measurement_never_passes_and_says_why(limit: float) -> None:
    found = replace(measured(), doubts=("throttled: under-voltage",))
    verdict = judge_budget(1, found, Budget(latency_p50_ms=limit))
    assert verdict.outcome is (Outcome.OVER_BUDGET if limit < 1 else Outcome.UNDECIDED)
    assert verdict.detail.startswith("sustained ")
    assert "; throttled: under-voltage" in verdict.detail
    # A budget without latency is decided nevertheless.
    assert judge_budget(1, found, Budget(size_bytes=10)).outcome is Outcome.PASSED


def test_load_during_one_process_is_not_a_drift() -> None:
    calm, disturbed = measured(), measured(late=3.0)
    one = replace(calm, samples_ns=calm.samples_ns * 2 + disturbed.samples_ns)
    assert one.steady
    most = replace(calm, samples_ns=calm.samples_ns + disturbed.samples_ns * 2)
    assert not most.steady
    assert "3.0" in most.flags[0]


def test_a_quick_measurement_is_too_short_for_a_drift() -> None:
    found = replace(measured(late=1.5), protocol="quick")
    assert found.steady is None
    assert found.flags == ()
    assert judge_budget(1, found, Budget(latency_p50_ms=9.0)).outcome is Outcome.PASSED
    hot = replace(found, doubts=("throttled: thermal status 3 (severe)",))
    assert judge_budget(1, hot, Budget(latency_p50_ms=9.0)).outcome is Outcome.UNDECIDED


def test_a_p99_needs_five_hundred_samples() -> None:
    few, enough = measured(count=499), measured(count=2000)
    verdict = judge_budget(1, few, Budget(latency_p99_ms=100.0))
    assert verdict.outcome is Outcome.UNDECIDED
    assert "499 samples, at least 500 are needed" in verdict.detail
    assert few.to_json()["p99_ms"] is None
    assert judge_budget(1, enough, Budget(latency_p99_ms=100.0)).outcome is Outcome.PASSED
    assert enough.to_json()["p99_ms"] == enough.percentile_ms(0.99).value


@pytest.mark.parametrize(
    ("low", "high", "claim"),
    [
        (0.5, 0.6, "faster"),
        (0.98, 0.9899, "faster"),
        (0.98, 0.9901, "none"),
        (0.999, 1.2, "none"),
        (1.0099, 1.2, "none"),
        (1.0101, 1.2, "slower"),
    ],
)
def test_a_difference_that_may_be_under_one_percent_is_not_claimed(
    low: float, high: float, claim: str
) -> None:
    assert Ratio("first", (low + high) / 2, low, high).claim == claim


def test_a_measurement_survives_json() -> None:
    found = replace(
        measured(ratio=(0.5, 0.4, 0.6)),
        start_ms=30.0,
        protocol="quick",
        doubts=("throttled",),
        notes=("noisy",),
    )
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert Measurement.from_json(document) == found
    assert document["p50_ms"] == found.percentile_ms(0.5).value


def row(
    scheme: str,
    *,
    outcome: Outcome = Outcome.PASSED,
    size: int = 1000,
    metric: float = 0.9,
    ratio: tuple[float, float, float] | None = None,
) -> Candidate:
    return Candidate(
        target="t",
        format="onnx",
        scheme=scheme,
        outcome=outcome,
        artifact=Artifact(Path("m.onnx"), "onnx", scheme, "0", size),
        agreement=Agreement(10, 0.0, 50.0, 1.0, metric, metric, "device", {}, Outcome.PASSED, ""),
        measurement=measured(ratio=ratio),
    )


def test_a_slower_candidate_is_not_chosen_and_its_row_says_so() -> None:
    rows = [row("fp32"), row("int8", size=300, metric=0.95, ratio=(1.3, 1.28, 1.35))]
    choice, judged = choose(rows, "size")
    assert choice.scheme == "fp32"
    assert judged[1].detail == "int8 does not pay on t: 1.30 times the time of fp32 (1.28 to 1.35)"
    assert judged[1].outcome is Outcome.PASSED


def test_a_candidate_that_may_be_slower_within_the_noise_is_not_chosen() -> None:
    rows = [row("fp32"), row("int8", size=300, ratio=(1.16, 0.99, 1.3))]
    choice, judged = choose(rows, "size")
    assert choice.scheme == "fp32"
    assert "not shown to pay on t: 1.16 times" in judged[1].detail


def test_a_candidate_that_is_as_fast_and_not_smaller_does_not_pay_off() -> None:
    choice, judged = choose([row("fp32"), row("fp16", ratio=(1.0, 0.99, 1.01))], "size")
    assert choice.scheme == "fp32"
    assert "and no smaller" in judged[1].detail


def test_a_difference_within_the_noise_counts_as_equal() -> None:
    rows = [row("fp32"), row("fp16", size=500, ratio=(1.005, 0.995, 1.008))]
    assert choose(rows, "latency")[0].scheme == "fp16"


@pytest.mark.parametrize(
    ("prefer", "scheme"), [("accuracy", "fp32"), ("latency", "int8"), ("size", "int4")]
)
def test_the_preference_decides_among_candidates_that_pay_off(prefer: str, scheme: str) -> None:
    rows = [
        row("fp32", metric=0.95),
        row("int8", metric=0.93, size=400, ratio=(0.5, 0.45, 0.55)),
        row("int4", metric=0.92, size=200, ratio=(0.8, 0.75, 0.85)),
    ]
    choice, judged = choose(rows, prefer)  # type: ignore[arg-type]
    assert choice.scheme == scheme
    assert all(r.detail.startswith("passed, not chosen: ") for r in judged if r.scheme != scheme)


def test_a_slower_candidate_ships_if_its_parent_cannot() -> None:
    rows = [
        row("fp32", outcome=Outcome.OVER_BUDGET),
        row("int8", size=300, ratio=(1.3, 1.28, 1.35)),
    ]
    assert choose(rows, "accuracy")[0].scheme == "int8"


def test_without_fp32_candidates_are_compared_with_the_first_one() -> None:
    slower = row("int8", size=100, ratio=(9.0, 8.5, 9.5))
    assert slower.measurement is not None
    assert slower.measurement.ratio is not None
    against = replace(slower.measurement.ratio, parent="fp16")
    rows = [row("fp16"), replace(slower, measurement=replace(slower.measurement, ratio=against))]
    choice, judged = choose(rows, "latency")
    assert choice.scheme == "fp16"
    assert "9.00 times the time of fp16" in judged[1].detail


def by(method: str, **kept: Any) -> Candidate:
    """An int8 candidate by a method other than the first."""
    return replace(row("int8", **kept), method=method, beside=True)


def test_only_the_best_of_many_methods_that_do_not_pay_off_gets_a_sentence() -> None:
    rows = [
        row("fp32"),
        row("int8", size=300, ratio=(1.5, 1.45, 1.55)),
        by("percentile", size=300, ratio=(1.3, 1.28, 1.35)),
        by("linear", size=300, ratio=(1.4, 1.35, 1.45)),
    ]
    choice, judged = choose(rows, "accuracy")
    assert choice.candidate == "fp32"
    assert judged[2].detail == (
        "int8 does not pay on t: 1.30 times the time of fp32 (1.28 to 1.35); method "
        "percentile, the best of 3"
    )
    assert all(row.detail.startswith("no better than int8.percentile: ") for row in
               (judged[1], judged[3]))  # fmt: skip


def test_the_best_method_that_pays_off_ships_and_others_of_its_scheme_are_no_better() -> None:
    rows = [
        row("fp32", metric=0.90),
        row("int8", metric=0.90, size=300, ratio=(0.6, 0.58, 0.62)),
        by("percentile", metric=0.90, size=300, ratio=(0.5, 0.48, 0.52)),
        by("linear", metric=0.90, size=300, ratio=(1.4, 1.35, 1.45)),
    ]
    choice, judged = choose(rows, "latency")
    assert choice.candidate == "int8.percentile"
    assert [each for each in judged if choice.ships(each)] == [judged[2]]
    assert judged[1].detail.startswith("no better than int8.percentile: 0.60 times")
    assert judged[3].detail.startswith("no better than int8.percentile: int8.linear does not pay")
    assert judged[0].detail.startswith("passed, not chosen: ")


def test_nothing_is_chosen_if_nothing_passed() -> None:
    choice, _ = choose([row("fp32", outcome=Outcome.UNAVAILABLE)], "accuracy")
    assert choice.scheme is None
    assert "fp32 unavailable" in choice.why


def pruned(scheme: str, times: tuple[float, float, float], **kept: Any) -> Candidate:
    """A candidate of the pruned network with its latency relative to the unpruned one."""
    candidate = row(scheme, **kept)
    assert candidate.measurement is not None
    ratio = Ratio(f"unpruned-{scheme}", *times)
    return replace(candidate, measurement=replace(candidate.measurement, unpruned_ratio=ratio))


def unpruned(scheme: str, **kept: Any) -> Candidate:
    return replace(row(scheme, **kept), network="unpruned")


def test_a_pruned_network_that_is_faster_ships() -> None:
    rows = [pruned("fp32", (0.6, 0.58, 0.63), metric=0.90), unpruned("fp32", metric=0.95)]
    choice, judged = choose(rows, "accuracy")
    assert (choice.scheme, choice.network) == ("fp32", "student")
    assert judged[1].detail == "passed, not chosen: the pruned network passed and pays off"


@pytest.mark.parametrize("times", [(1.0, 0.98, 1.02), (1.3, 1.2, 1.4), (0.98, 0.95, 1.0)])
def test_pruning_that_is_not_faster_beyond_the_noise_does_not_pay_off(
    times: tuple[float, float, float],
) -> None:
    rows = [pruned("fp32", times), unpruned("fp32", size=2000)]
    choice, judged = choose(rows, "accuracy")
    assert (choice.scheme, choice.network) == ("fp32", "unpruned")
    assert f"pruned fp32 does not pay on {rows[0].target}" in judged[0].detail
    assert choice.ships(judged[1])
    assert not choice.ships(judged[0])


def test_if_size_is_preferred_a_pruned_file_that_is_as_fast_and_smaller_pays_off() -> None:
    rows = [pruned("fp32", (1.0, 0.98, 1.02)), unpruned("fp32", size=2000)]
    assert choose(rows, "size")[0].network == "student"
    slower = [pruned("fp32", (1.1, 1.05, 1.2)), unpruned("fp32", size=2000)]
    assert choose(slower, "size")[0].network == "unpruned"


def test_the_unpruned_network_ships_if_the_pruned_one_disagrees() -> None:
    rows = [row("fp32", outcome=Outcome.DISAGREES), unpruned("fp32")]
    choice, _ = choose(rows, "latency")
    assert choice.network == "unpruned"
    assert "unpruned-fp32 is the only candidate" in choice.why


def test_a_pruned_network_pays_off_if_the_unpruned_one_cannot_ship() -> None:
    rows = [
        pruned("fp32", (1.0, 0.98, 1.02)),
        replace(unpruned("fp32"), outcome=Outcome.OVER_BUDGET),
    ]
    assert choose(rows, "accuracy")[0].network == "student"


def _counted(scheme: str, instructions: int, network: Any = "student") -> Candidate:
    artifact = Artifact(Path("m"), "onnx", scheme, "0", 100)
    return Candidate(
        "board", "onnx", scheme, Outcome.PASSED, artifact=artifact, network=network,
        evidence="emulated", instructions=instructions,
    )  # fmt: skip


def test_instructions_have_their_own_budget_and_decide_no_latency() -> None:
    budget = Budget(instructions=1000)
    assert judge_budget(10, None, budget, 900).outcome is Outcome.PASSED
    assert judge_budget(10, None, budget, 1001).outcome is Outcome.OVER_BUDGET
    assert judge_budget(10, None, budget).outcome is Outcome.UNDECIDED
    verdict = judge_budget(10, None, Budget(latency_p90_ms=5.0, instructions=1000), 900)
    assert verdict.outcome is Outcome.UNDECIDED
    assert "emulated" in verdict.detail


def test_a_missing_instruction_count_does_not_hide_a_missed_limit() -> None:
    budget = Budget(latency_p90_ms=5.0, instructions=100)
    slow = measured(9.0)
    assert judge_budget(10, slow, replace(budget, instructions=None)).outcome is Outcome.OVER_BUDGET
    assert judge_budget(10, slow, budget).outcome is Outcome.OVER_BUDGET
    fast = judge_budget(10, measured(1.0), budget)
    assert fast.outcome is Outcome.UNDECIDED
    assert "instructions" in fast.detail
    memory = replace(slow, peak_memory_bytes=10**9)
    assert judge_budget(10, memory, Budget(peak_memory_bytes=10, instructions=1)).outcome is (
        Outcome.OVER_BUDGET
    )


def test_a_candidate_with_more_instructions_does_not_pay_off() -> None:
    choice, rows = choose([_counted("fp32", 1000), _counted("int8", 1300)], "size")
    assert choice.scheme == "fp32"
    assert "1.30 times the instructions of fp32" in rows[1].detail
    choice, rows = choose([_counted("fp32", 1000), _counted("int8", 530)], "latency")
    assert choice.scheme == "int8"
    assert "530 instructions against 1,000" in choice.why


def test_a_pruned_network_must_take_fewer_instructions() -> None:
    whole = _counted("fp32", 1000, "unpruned")
    choice, rows = choose([_counted("fp32", 995), whole], "accuracy")
    assert (choice.scheme, choice.network) == ("fp32", "unpruned")
    assert "pruned fp32 does not pay" in rows[0].detail
    choice, _ = choose([_counted("fp32", 700), whole], "accuracy")
    assert choice.network == "student"


def test_integer_outputs_agree_only_if_they_are_equal() -> None:
    classes = {"output": torch.arange(200) % 7}
    found = {"output": classes["output"].clone()}
    found["output"][:3] += 4

    def held(least: float) -> Agreement:
        return compare(
            classes, found, scheme="fp16", min_agreement=least, evidence="host", runtime={}
        )

    assert held(0.98).outcome is Outcome.PASSED
    assert held(0.98).top1_agreement_frac == 197 / 200
    assert held(0.99).outcome is Outcome.DISAGREES
    assert "of the values of output are equal" in held(0.99).detail
