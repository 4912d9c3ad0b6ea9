"""Integers and the real numbers they represent: laws of scale, zero point and ranges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import edgekd
from edgekd.artifacts.quantization_params import QuantizationParams, as_numbers, as_values
from edgekd.bundles import golden_vectors as golden
from edgekd.errors import Fault, MissingPackageError
from edgekd.formats import FORMATS
from edgekd.formats.capabilities import read_quantization
from edgekd.formats.integer_io import params_over, retyped, with_headroom

RANGES = [(-1.0, 3.0), (-2.5, -0.5), (0.25, 4.0), (0.0, 0.0), (-1e-6, 1e6)]
IOS = ("int8", "uint8")


@pytest.mark.parametrize("io", IOS)
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_a_value_in_range_is_off_by_half_a_step_and_zero_is_exact(
    low: float, high: float, io: str
) -> None:
    step = params_over(low, high, io)
    ends = np.iinfo(io)
    assert ends.min <= step.zero_point <= ends.max
    assert step.scale == float(np.float32(step.scale))
    values = np.append(np.linspace(min(low, 0), max(high, 0), 1001), 0.0).astype(np.float32)
    found = as_values(as_numbers({"x": values}, {"x": step}), {"x": step})["x"]
    # The zero point is a whole number: the ends may lie half a step beyond the last one.
    inside = found[:-1] - values[:-1]
    assert abs(inside).max() <= step.scale * (1 + 1e-5)
    assert found[-1] == 0.0
    reached = (found > found.min()) & (found < found.max())
    assert (abs(found - values)[reached] <= step.scale * (0.5 + 1e-5)).all()


@pytest.mark.parametrize("io", IOS)
def test_every_number_comes_back_as_itself(io: str) -> None:
    ends = np.iinfo(io)
    numbers = np.arange(ends.min, ends.max + 1).astype(io)
    for scale in (0.1, 1 / 3, 7.3e-6, 12345.6):
        step = {"x": QuantizationParams(float(np.float32(scale)), int(numbers[77]), io)}
        values = as_values({"x": numbers}, step)
        assert values["x"].dtype == np.float32
        back = as_numbers(values, step)["x"]
        assert back.dtype == numbers.dtype
        assert (back == numbers).all()


def test_what_lies_beyond_the_range_is_at_its_end_and_others_are_left_alone() -> None:
    steps = {"x": QuantizationParams(0.5, 3, "int8")}
    given = {"x": np.array([1e9, -1e9]), "ids": np.array([7, 300])}
    found = as_numbers(given, steps)
    assert found["x"].tolist() == [127, -128]
    assert found["ids"].tolist() == [7, 300]
    # What is a number already is not made one again.
    assert as_numbers(found, steps)["x"].tolist() == [127, -128]


def test_the_other_signedness_says_the_same_values() -> None:
    step = params_over(-1.0, 3.0, "uint8")
    numbers = np.arange(256)
    shifted = (numbers - 128).astype(np.int8)
    ours = as_values({"x": numbers.astype(np.uint8)}, {"x": step})["x"]
    theirs = as_values({"x": shifted}, {"x": retyped(step, "int8")})["x"]
    assert (ours == theirs).all()
    assert retyped(retyped(step, "int8"), "uint8") == step


def test_outputs_have_room_and_what_is_never_negative_stays_so() -> None:
    assert with_headroom(-1.0, 3.0) == (-1.5, 3.5)
    assert with_headroom(0.0, 8.0) == (0.0, 9.0)


def test_golden_numbers_may_be_off_by_a_count_of_steps() -> None:
    step = QuantizationParams(0.01, 100, "uint8")
    numbers = torch.tensor([0, 100, 250], dtype=torch.uint8)
    values = (numbers.double() - 100) * step.scale
    wide = golden.tolerance("int8", values)
    count = golden.tolerance("int8", numbers, step)
    assert count == int(count) >= 1
    assert -1e-9 <= count * step.scale - wide < step.scale
    assert golden.tolerance("int8", torch.full((3,), 100, dtype=torch.uint8), step) == 1.0
    assert golden.tolerance("int8", numbers) == 0.0  # Classes and ids must be the same.


def test_a_package_that_is_missing_is_told_and_not_taken_for_a_file_without_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(path: Path) -> dict[str, QuantizationParams]:
        raise MissingPackageError(Fault("onnx is absent", str(path), "none", "onnx", "install it"))

    path = tmp_path / "model.onnx"
    path.write_bytes(b"no such file")
    bare = edgekd.load_artifact(path)
    monkeypatch.setattr(FORMATS["onnx"], "quantization", absent)
    with pytest.raises(MissingPackageError):
        read_quantization(bare)
