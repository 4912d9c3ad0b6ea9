from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from edgekd.calibration.calibration_set import (
    CalibrationSet,
    calibration_names,
    check_calibration,
    load_calibration,
)
from edgekd.calibration.checks import doubts, off_scale, unusable
from edgekd.calibration.features import features_of
from edgekd.calibration.frozen_samples import calibration_samples
from edgekd.calibration.selection import SELECTIONS, k_centre, select
from edgekd.data import Samples
from edgekd.errors import RecipeError
from edgekd.network.network import as_network
from tests.support.project import assert_five_parts

NETWORK = as_network(nn.Linear(2, 3), torch.zeros(1, 2))
NEEDS = [("stratified", "labels"), ("k-centre", "features"), ("highest-loss", "losses")]
LABELS = torch.tensor([0] * 80 + [1] * 15 + [2] * 5)


@pytest.mark.parametrize("name", calibration_names())
def test_a_shipped_set_is_valid_and_never_of_the_test_split(name: str, tmp_path: Path) -> None:
    assert load_calibration(name, tmp_path).source in ("train", "validation", "unlabeled")


GIVEN = {
    "labels": LABELS,
    "features": torch.randn(100, 4, generator=torch.Generator().manual_seed(5)),
    "losses": torch.rand(100, generator=torch.Generator().manual_seed(6)),
}


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_selection_is_of_different_samples_and_a_function_of_its_seed(selection: str) -> None:
    ids = select(100, 30, selection, seed=1, **GIVEN)
    assert len(set(ids)) == 30
    assert list(ids) == list(select(100, 30, selection, seed=1, **GIVEN))
    drawn = list(ids) != list(select(100, 30, selection, seed=2, **GIVEN))
    assert drawn == (selection in ("random", "stratified"))
    assert sorted(select(100, 100, selection, seed=1, **GIVEN)) == list(range(100))


@pytest.mark.parametrize(("selection", "what"), NEEDS)
def test_a_selection_without_what_it_looks_at_is_an_error(selection: str, what: str) -> None:
    with pytest.raises(ValueError, match=f"{selection} selection needs {what}"):
        select(100, 30, selection, seed=1)


def radius(features: Tensor, ids: Sequence[int]) -> float:
    """How far the farthest of all samples is from the nearest of `ids`."""
    return float(torch.cdist(features, features[list(ids)]).min(1).values.max())


def test_k_centre_is_within_twice_the_best_of_all_choices() -> None:
    features = torch.randn(11, 2, generator=torch.Generator().manual_seed(3))
    for count in (1, 2, 3):
        best = min(radius(features, ids) for ids in combinations(range(11), count))
        assert radius(features, k_centre(features, count)) <= 2 * best + 1e-6


def test_k_centre_covers_what_chance_leaves_out() -> None:
    clusters = torch.cat([torch.randn(96, 3), 50.0 + torch.randn(4, 3)])
    ids = k_centre(clusters, 2)
    assert sorted(int(i >= 96) for i in ids) == [0, 1]
    # Each more is no farther, and equal samples are taken last.
    radii = [radius(clusters, k_centre(clusters, count)) for count in range(1, 20)]
    assert radii == sorted(radii, reverse=True)
    twins = torch.cat([clusters[:5], clusters[:5]])
    assert {i % 5 for i in k_centre(twins, 5)} == set(range(5))


def test_a_selection_is_accepted_by_its_old_name() -> None:
    losses = GIVEN["losses"]
    by_old_name = select(100, 5, "worst-loss", seed=0, losses=losses)
    assert by_old_name == select(100, 5, "highest-loss", seed=0, losses=losses)
    keys = {"source": "train", "count": 5, "selection": "worst-loss", "licence": "CC0-1.0"}
    assert check_calibration(keys, Path("old.toml")).selection == "highest-loss"


def test_highest_loss_takes_the_largest_in_order() -> None:
    ids = select(100, 5, "highest-loss", seed=0, losses=GIVEN["losses"])
    assert GIVEN["losses"][list(ids)].tolist() == sorted(GIVEN["losses"].tolist())[:-6:-1]


def test_a_stratified_selection_takes_as_many_of_each_label_while_they_last() -> None:
    ids = select(100, 30, "stratified", labels=LABELS, seed=1)
    counts = torch.bincount(LABELS[torch.tensor(ids)])
    assert counts.tolist() == [13, 12, 5]


def of(rows: Tensor) -> list[dict[str, Tensor]]:
    return [{"input": row[None]} for row in rows]


NORMAL = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
WRONG: dict[str, tuple[list[dict[str, Tensor]], str]] = {
    "empty": ([], "int8 needs calibration samples"),
    "nan": (of(torch.tensor([[0.0, 1.0], [float("nan"), 0.0]])), r"calib samples \[1\]"),
    "shape": (of(torch.zeros(4, 3)), r"got:      \(1, 3\) float32"),
    "dtype": (of(NORMAL[:4].double()), r"got:      \(1, 2\) float64"),
    "missing": ([{"image": NORMAL[:1]}], "got:      inputs image"),
    "constant": (of(torch.full((9, 2), 0.5)), "input = 0.5 everywhere"),
    "one zero": (of(torch.zeros(1, 2)), "input = 0 everywhere"),
    "equal": (of(NORMAL[:1].expand(9, 2)), "the same sample, repeated"),
}


@pytest.mark.parametrize("name", WRONG)
def test_samples_on_which_nothing_can_be_measured_are_an_error(name: str) -> None:
    samples, message = WRONG[name]
    faults = unusable(samples, NETWORK.signature.inputs, at="calib")
    assert len(faults) == 1
    assert re.search(message, str(faults[0])), faults[0]
    assert_five_parts(str(faults[0]))


def test_right_samples_have_no_fault_and_no_doubt() -> None:
    samples, seen = of(NORMAL[:100]), {"input": NORMAL}
    assert not unusable(samples, NETWORK.signature.inputs, at="calib")
    assert not off_scale(samples, seen, at="calib")
    assert not doubts(samples, seen)


@pytest.mark.parametrize("factor", [255.0, 1 / 255])
def test_a_forgotten_normalisation_is_an_error(factor: float) -> None:
    images = torch.rand(200, 2)
    (fault,) = off_scale(of(factor * images), {"input": images}, at="calib")
    assert f"{factor:.3g} times the training data's size" in fault.got
    assert_five_parts(str(fault))
    # One outlier in the training split is no scale.
    many = torch.rand(2000, 2)
    many[0, 0] = 1e4
    assert off_scale(of(images[:64]), {"input": many}, at="calib") == []
    # Nor is a value that is there or not there of values that are mostly zero.
    rare = torch.zeros(2000, 2)
    rare[::400, 0] = 1.0
    assert off_scale(of(rare[1:1201]), {"input": rare}, at="calib") == []


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (NORMAL[:9], "only 9 calibration samples"),
        (torch.cat([NORMAL[:60], NORMAL[:5]]), "5 of 65 calibration samples are duplicates"),
        (2 * NORMAL[:64], "% of the calibration values of input input lie outside"),
        (0.1 * NORMAL[:64], "cover less than half"),
        (torch.zeros(64, 2), "input input is 0 in all calibration samples"),
    ],
)
def test_what_is_doubtful_is_reported(samples: Tensor, message: str) -> None:
    assert message in "\n".join(doubts(of(samples), {"input": NORMAL}))


def test_token_ids_beyond_the_training_split_are_doubtful_not_off_scale() -> None:
    taught = {"ids": torch.arange(64).reshape(16, 4) % 20}
    samples = [{"ids": torch.tensor([[i, 3, 5, 39]])} for i in range(40)]
    assert off_scale(samples, taught, at="calib") == []
    assert any("lie outside" in sentence for sentence in doubts(samples, taught))


def chosen(count: int) -> CalibrationSet:
    return CalibrationSet("mine", "train", count, "first", "CC0")


def test_samples_are_single_and_named() -> None:
    x = torch.randn(10, 2)
    found = calibration_samples(
        NETWORK, Samples(TensorDataset(x, torch.zeros(10)), ("input",)), chosen(4), seed=0
    )
    assert [list(sample) for sample in found] == [["input"]] * 4
    assert torch.equal(torch.cat([sample["input"] for sample in found]), x[:4])


def test_too_few_and_broken_samples_are_reported() -> None:
    x = torch.randn(10, 2)
    x[3, 1] = float("inf")
    samples = Samples(TensorDataset(x, torch.zeros(10)), ("input",))
    with pytest.raises(RecipeError, match="fewer samples"):
        calibration_samples(NETWORK, samples, chosen(11), seed=0)
    with pytest.raises(RecipeError, match=r"train samples \[3\]"):
        calibration_samples(NETWORK, samples, chosen(10), seed=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('source = "test"', "train, validation or unlabeled"),
        ('souce = "train"', "did you mean 'source'?"),
        ("count = 0", "an integer above 0"),
        ("count = 3", "licence"),
        ("sha256 = 3", "a string"),
        ('source = "unlabeled"\nselection = "highest-loss"', "which have the labels"),
    ],
)
def test_a_wrong_set_is_reported(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_calibration("mine.toml", tmp_path)
    assert message in str(caught.value)


class Twice(nn.Module):
    """Layers that do not run in the order they are made."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = nn.Linear(3, 2), nn.Conv1d(2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(x)).mean(2))


def test_features_are_the_input_of_the_last_layer_that_runs() -> None:
    network = as_network(Twice().train(), torch.randn(1, 2, 5))
    x = torch.randn(600, 2, 5)
    samples = Samples(TensorDataset(x, torch.zeros(600)), ("x",))
    features, description = features_of(network, samples)
    assert description == "the input of layer head"
    with torch.no_grad():
        expected = torch.relu(network.module.body(x)).mean(2)  # type: ignore[operator]
    assert torch.allclose(features, expected, atol=1e-6)
    assert network.module.training


def test_features_of_a_network_without_layers_are_its_output() -> None:
    network = as_network(nn.ReLU(), torch.randn(1, 4))
    samples = Samples(TensorDataset(torch.randn(7, 4), torch.zeros(7)), ("input",))
    features, description = features_of(network, samples)
    assert description == "output output"
    assert features.shape == (7, 4)
