"""One convention of the SQNR: its limits, and the law that scaling both sides changes nothing."""

from __future__ import annotations

import math

import pytest
import torch

from edgekd.evidence.sqnr import decibels, sqnr_db

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("signal", "noise", "expected"),
    [
        (100.0, 1.0, 20.0),
        (1.0, 1.0, 0.0),
        (1.0, 0.0, INF),
        (0.0, 0.0, INF),
        (0.0, 1.0, -INF),
        (1.0, INF, -INF),
        (NAN, 0.0, -INF),
        (1.0, NAN, -INF),
    ],
)
def test_the_limits_are_one_convention(signal: float, noise: float, expected: float) -> None:
    assert decibels(signal, noise) == expected


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_scaling_reference_and_outputs_alike_changes_nothing(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(64, 8, generator=generator)
    noise = torch.randn(64, 8, generator=generator)
    outputs = reference + noise * reference.norm() / noise.norm() / 10 ** (30 / 20)
    found = sqnr_db({"a": scale * reference}, {"a": scale * outputs})
    assert found == pytest.approx(30.0, abs=1e-3)


def test_all_outputs_count_together_and_those_without_a_reference_do_not() -> None:
    reference = {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}
    outputs = {"a": torch.tensor([3.0]), "b": torch.tensor([4.5]), "c": torch.tensor([9.0])}
    assert sqnr_db(reference, outputs) == pytest.approx(20.0)
    assert sqnr_db(reference, {**reference, "c": outputs["c"]}) == INF


def test_outputs_that_are_not_finite_reproduce_nothing() -> None:
    assert sqnr_db({"a": torch.ones(2)}, {"a": torch.tensor([1.0, NAN])}) == -INF
