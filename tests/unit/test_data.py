from __future__ import annotations

import pytest
import torch
from torch.utils.data import TensorDataset

from edgekd.data import Samples, fingerprint, joined, single, view_seeds
from edgekd.errors import RecipeError

X, Y = torch.arange(12.0).reshape(6, 2), torch.arange(6)


class Items:
    """The same data as a map-style dataset of dicts."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> object:
        return {"x": X[index]}, int(Y[index])


def test_tensors_and_items_give_the_same_batches() -> None:
    ids = torch.tensor([4, 0, 2])
    fast = Samples(TensorDataset(X, Y), ("x",)).take(ids)
    slow = Samples(Items(), ("x",)).take(ids)
    assert torch.equal(fast[0]["x"], slow[0]["x"])
    assert torch.equal(fast[1], slow[1])
    assert torch.equal(Samples(Items(), ("x",)).labels(), Y)


def test_what_a_subclass_does_to_its_items_is_done() -> None:
    class Scaled(TensorDataset):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
            x, y = super().__getitem__(index)
            return x / 255, y

    inputs, labels = Samples(Scaled(X, Y), ("x",)).take(torch.tensor([1, 3]))
    assert torch.equal(inputs["x"], X[[1, 3]] / 255)
    assert torch.equal(labels, Y[[1, 3]])


def test_unlabelled_items_are_inputs_alone() -> None:
    inputs, labels = Samples(TensorDataset(X), ("x",), labelled=False).take(torch.tensor([1]))
    assert labels is None
    assert torch.equal(inputs["x"], X[1:2])


def test_inputs_of_other_names_are_reported() -> None:
    with pytest.raises(RecipeError, match="inputs differ from the network's"):
        Samples(Items(), ("image",)).take(torch.tensor([0]))


def test_splitting_and_joining_are_inverse() -> None:
    samples = single({"x": X})
    assert len(samples) == 6
    assert torch.equal(joined(samples)["x"], X)


def test_a_fingerprint_follows_the_values() -> None:
    assert fingerprint(TensorDataset(X, Y)) == fingerprint(TensorDataset(X.clone(), Y.clone()))
    changed = X.clone()
    changed[5, 1] += 1
    assert fingerprint(TensorDataset(X, Y)) != fingerprint(TensorDataset(changed, Y))
    assert fingerprint(Items()) == fingerprint(Items())
    assert fingerprint(None) is None


def test_a_view_depends_on_seed_epoch_and_sample_alone() -> None:
    ids = torch.arange(100)
    seeds = view_seeds(3, 5, ids)
    assert torch.equal(seeds[torch.tensor([7, 50])], view_seeds(3, 5, torch.tensor([7, 50])))
    assert not torch.equal(seeds, view_seeds(3, 6, ids))
    assert not torch.equal(seeds, view_seeds(4, 5, ids))


def test_view_seeds_are_uniform_and_positive() -> None:
    seeds = view_seeds(0, 0, torch.arange(40_000))
    assert int(seeds.min()) >= 0
    assert len(seeds.unique()) == len(seeds)
    counts = torch.bincount(seeds % 40, minlength=40).double()
    # Chi-squared with 39 degrees of freedom stays under 73 in 99.9 of 100 cases.
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 73
    neighbours = (seeds[1:] % 2**20 - seeds[:-1] % 2**20).double()
    assert abs(float(neighbours.mean())) < 0.01 * 2**20
