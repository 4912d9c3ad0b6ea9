from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from edgekd.data import Samples
from edgekd.errors import RecipeError
from edgekd.network import as_network
from edgekd.quantization import CalibrationSet, calibration_names, load_calibration, select
from edgekd.stages.quantize import quantize

NETWORK = as_network(nn.Linear(2, 3), torch.zeros(1, 2))
LABELS = torch.tensor([0] * 80 + [1] * 15 + [2] * 5)


@pytest.mark.parametrize("name", calibration_names())
def test_a_shipped_set_is_valid_and_never_of_the_test_split(name: str, tmp_path: Path) -> None:
    assert load_calibration(name, tmp_path).source in ("train", "validation", "unlabeled")


@pytest.mark.parametrize("selection", ["first", "random", "stratified"])
def test_a_selection_is_of_different_samples_and_a_function_of_its_seed(selection: str) -> None:
    ids = select(100, 30, selection, labels=LABELS, seed=1)
    assert len(set(ids)) == 30
    assert list(ids) == list(select(100, 30, selection, labels=LABELS, seed=1))
    if selection != "first":
        assert list(ids) != list(select(100, 30, selection, labels=LABELS, seed=2))


def test_a_stratified_selection_takes_as_many_of_each_label_while_they_last() -> None:
    ids = select(100, 30, "stratified", labels=LABELS, seed=1)
    counts = torch.bincount(LABELS[torch.tensor(ids)])
    assert counts.tolist() == [13, 12, 5]


def chosen(count: int) -> CalibrationSet:
    return CalibrationSet("mine", "train", count, "first", "CC0")


def test_samples_are_single_and_named() -> None:
    x = torch.randn(10, 2)
    found = quantize(
        NETWORK, Samples(TensorDataset(x, torch.zeros(10)), ("input",)), chosen(4), seed=0
    )
    assert [list(sample) for sample in found] == [["input"]] * 4
    assert torch.equal(torch.cat([sample["input"] for sample in found]), x[:4])


def test_too_few_and_broken_samples_are_told() -> None:
    x = torch.randn(10, 2)
    x[3, 1] = float("inf")
    samples = Samples(TensorDataset(x, torch.zeros(10)), ("input",))
    with pytest.raises(RecipeError, match="fewer samples"):
        quantize(NETWORK, samples, chosen(11), seed=0)
    with pytest.raises(RecipeError, match=r"train samples \[3\]"):
        quantize(NETWORK, samples, chosen(10), seed=0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('source = "test"', "train, validation or unlabeled"),
        ('souce = "train"', "did you mean 'source'?"),
        ("count = 0", "a whole number over 0"),
        ("count = 3", "licence"),
    ],
)
def test_a_wrong_set_is_told(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_calibration("mine.toml", tmp_path)
    assert told in str(caught.value)
