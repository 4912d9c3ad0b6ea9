from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgekd.cli.parse import parse_budget, parse_example
from edgekd.errors import RecipeError
from edgekd.network.sample_files import read_samples
from tests.support.project import assert_five_parts


def test_shapes_are_read_by_name_or_in_order() -> None:
    named = parse_example(["image=1x3x8x8", "ids=1x16:int64"])
    assert isinstance(named, dict)
    assert named["image"].shape == (1, 3, 8, 8)
    assert named["ids"].dtype == torch.int64
    ordered = parse_example(["1x4"])
    assert isinstance(ordered, tuple)
    assert parse_example([]) is None


@pytest.mark.parametrize("word", ["image=1x3x", "1,3", "x=2:int9", "image", "x=" + "9" * 5000])
def test_a_word_that_is_no_shape_is_reported(word: str) -> None:
    with pytest.raises(RecipeError, match="is not the shape of an input"):
        parse_example([word])


def test_an_example_beyond_memory_is_reported() -> None:
    with pytest.raises(RecipeError, match="does not fit into memory"):
        parse_example(["x=" + "x".join(["999999999"] * 4)])


def test_samples_are_read_from_both_kinds_of_file(tmp_path: Path) -> None:
    x = torch.randn(3, 2)
    save_file({"x": x}, tmp_path / "s.safetensors")
    np.savez(tmp_path / "s.npz", x=x.numpy())
    for name in ("s.safetensors", "s.npz"):
        found = read_samples(tmp_path / name)
        assert torch.equal(torch.cat([sample["x"] for sample in found]), x)


def test_samples_of_other_inputs_are_reported(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2, 1), "more": torch.zeros(2, 1)}, tmp_path / "s.safetensors")
    assert [list(each) for each in read_samples(tmp_path / "s.safetensors", ["x"])] == [["x"]] * 2
    with pytest.raises(RecipeError, match="lack inputs of the network") as caught:
        read_samples(tmp_path / "s.safetensors", ["ids", "x"])
    assert_five_parts(str(caught.value))
    assert "s.safetensors, ids" in str(caught.value)


def test_files_without_samples_are_reported(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2, 1), "y": torch.zeros(3, 1)}, tmp_path / "uneven.safetensors")
    save_file({"x": torch.zeros(0, 1)}, tmp_path / "empty.safetensors")
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    for name in ("uneven.safetensors", "empty.safetensors", "text.npz", "objects.npz", "none.npz"):
        with pytest.raises(RecipeError, match="has no samples that can be read"):
            read_samples(tmp_path / name)


def test_a_budget_is_read_and_its_faults_are_reported() -> None:
    budget = parse_budget(["latency_p90_ms=5", "size_bytes=1000"])
    assert (budget.latency_p90_ms, budget.size_bytes) == (5.0, 1000)
    for word, message in (
        ("latency_p90=5", "did you mean 'latency_p90_ms'?"),
        ("size_bytes=many", "--budget size_bytes=5"),
        ("size_bytes=-1", "a positive number"),
    ):
        with pytest.raises(RecipeError) as caught:
            parse_budget([word])
        assert message in str(caught.value)
