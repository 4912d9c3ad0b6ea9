"""Data: the splits that a recipe's `data.load` returns, and batches and views of their samples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeGuard

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import TensorDataset, default_collate

from edgekd.errors import Fault, RecipeError

Inputs = dict[str, Tensor]
"""Input tensors by name, batch first."""

Augment = Callable[[Inputs, Int[Tensor, " batch"]], Inputs]
"""An augmentation: a random view of a batch, a pure function of it and of one seed per sample."""


class Dataset(Protocol):
    """A map-style dataset; an item is (input, target), (inputs_dict, target), or input alone."""

    def __len__(self) -> int:
        """The number of items."""

    def __getitem__(self, index: int, /) -> Any:
        """The item at `index`."""


@dataclass(frozen=True)
class Data:
    """The splits of a recipe.

    Attributes:
        train: items with targets, for training.
        validation: items with targets, for choosing between candidates.
        test: items with targets, for results only.
        unlabeled: items without targets; losses that need no label use them too.
        augment: called with a batch of inputs and one uniform 63-bit seed per sample, a function of
            (run seed, epoch, sample). All randomness must come from these seeds, so that an
            interrupted run sees the same views again and a teacher's outputs can be cached.
        slices: groups of the test split by name: the indices of their samples, or a boolean for
            every sample. They may overlap; `accept.slices` judges the worst of them.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    unlabeled: Dataset | None = None
    augment: Augment | None = None
    slices: Mapping[str, Any] = field(default_factory=dict)

    def slice_ids(self) -> dict[str, Int[Tensor, " samples"]]:
        """The indices of the test split's samples in each slice.

        Raises:
            RecipeError: a slice is empty or does not fit the test split; all faults are reported.
        """
        ids: dict[str, Tensor] = {}
        faults = []
        for name, given in self.slices.items():
            try:
                ids[name] = _ids(torch.as_tensor(given), len(self.test))
            except (ValueError, TypeError, RuntimeError) as error:
                faults.append(_slice_fault(name, error, len(self.test)))
        if faults:
            raise RecipeError(*faults)
        return ids


def _ids(given: Tensor, count: int) -> Tensor:
    """The indices that `given`, indices or booleans, selects; a ValueError if it selects none."""
    if given.dtype == torch.bool and given.shape == (count,):
        given = given.nonzero()[:, 0]
    if given.dtype == torch.bool or given.is_floating_point() or given.ndim != 1:
        raise ValueError(f"{tuple(given.shape)} {str(given.dtype).removeprefix('torch.')}")
    if not len(given):
        raise ValueError("no sample")
    if int(given.min()) < 0 or int(given.max()) >= count:
        raise ValueError(f"indices from {int(given.min())} to {int(given.max())}")
    ids: Tensor = given.to(torch.int64).unique()
    return ids


def _slice_fault(name: str, error: Exception, count: int) -> Fault:
    return Fault(
        what=f"The slice {name!r} does not fit the test split.",
        at=f"data.load, slices[{name!r}]",
        got=str(error),
        expected=f"indices from 0 to {count - 1}, or {count} booleans, at least one sample",
        fix="return edgekd.Data(..., slices={name: indices of test samples})",
    )


@dataclass(frozen=True)
class Samples:
    """A dataset read in batches, its inputs under the network's names."""

    dataset: Dataset
    input_names: tuple[str, ...]
    labelled: bool = True

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def in_memory(self) -> bool:
        """Whether all items are tensors in memory, so that none has to be computed."""
        return is_plain(self.dataset)

    def take(self, ids: Int[Tensor, " batch"]) -> tuple[Inputs, Tensor | None]:
        """The inputs and targets of the items `ids`; tensors in memory are indexed directly."""
        if is_plain(self.dataset):
            columns = [column[ids] for column in self.dataset.tensors]
            item: Any = columns if len(columns) > 1 else columns[0]
        else:
            item = default_collate([self.dataset[int(index)] for index in ids])
        inputs, target = (item[0], item[1]) if self.labelled else (_bare(item), None)
        return self._named(inputs), target

    def labels(self) -> Tensor:
        """The targets of all samples, in order."""
        if is_plain(self.dataset):
            return self.dataset.tensors[1]
        found = [self.take(ids)[1] for ids in self.batches(512)]
        return torch.cat([labels for labels in found if labels is not None])

    def batches(self, size: int) -> list[Int[Tensor, " batch"]]:
        """The ids of all samples in order, `size` at a time."""
        return list(torch.arange(len(self)).split(size))

    def _named(self, inputs: Any) -> Inputs:
        named = dict(inputs) if isinstance(inputs, Mapping) else {self.input_names[0]: inputs}
        if set(named) != set(self.input_names):
            raise RecipeError(
                Fault(
                    what="The data's inputs differ from the network's.",
                    at="data.load",
                    got=", ".join(map(str, named)),
                    expected=", ".join(self.input_names),
                    fix="return items of ({input name: tensor}, target)",
                )
            )
        return {name: named[name] for name in self.input_names}


@dataclass(frozen=True)
class Mixed:
    """Labelled samples, and after them unlabelled samples."""

    labelled: Samples
    unlabelled: Samples

    def __len__(self) -> int:
        return len(self.labelled) + len(self.unlabelled)

    def take(self, ids: Int[Tensor, " batch"]) -> tuple[Inputs, Tensor | None]:
        """The inputs of the items `ids`, labelled ones first, and the labels of these."""
        labelled = ids < len(self.labelled)
        parts = [
            source.take(chosen)
            for source, chosen in (
                (self.labelled, ids[labelled]),
                (self.unlabelled, ids[~labelled] - len(self.labelled)),
            )
            if len(chosen)
        ]
        return joined([inputs for inputs, _ in parts]), parts[0][1]

    def batches(self, size: int) -> list[Int[Tensor, " batch"]]:
        """The ids of all samples in order, `size` at a time."""
        return list(torch.arange(len(self)).split(size))


def labelled_count(samples: Samples | Mixed) -> int:
    """The number of labelled samples, which come first."""
    if isinstance(samples, Mixed):
        return len(samples.labelled)
    return len(samples) if samples.labelled else 0


def is_plain(dataset: Dataset) -> TypeGuard[TensorDataset]:
    """Whether indexing its tensors gives the items; a subclass may change them."""
    return type(dataset) is TensorDataset and len(dataset.tensors) <= 2


def _bare(item: Any) -> Any:
    return item[0] if isinstance(item, list | tuple) else item


def view_seeds(seed: int, epoch: int, ids: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """One uniform 63-bit seed per sample, a function of (seed, epoch, sample id).

    Source: the finalizer of SplitMix64, Steele, Lea, Flood 2014, doi:10.1145/2660193.2660195.
    """
    start = (seed * 0x9E3779B97F4A7C15 + epoch * 0xD1B54A32D192ED03) % 2**64
    state = ids.to(torch.int64) * _wrap(0xBF58476D1CE4E5B9) + _wrap(start)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ _logical_shift(state, shift)) * _wrap(factor)
    return (state ^ _logical_shift(state, 31)) & 0x7FFFFFFFFFFFFFFF


def _wrap(value: int) -> int:
    """`value`, an unsigned 64-bit integer, as the signed integer with the same bits."""
    return value - 2**64 if value >= 2**63 else value


def _logical_shift(state: Tensor, shift: int) -> Tensor:
    shifted: Tensor = (state >> shift) & (2 ** (64 - shift) - 1)
    return shifted


def single(inputs: Inputs) -> list[Inputs]:
    """The samples of a batch, each a batch of one."""
    count = len(next(iter(inputs.values())))
    return [{name: tensor[i : i + 1] for name, tensor in inputs.items()} for i in range(count)]


def joined(samples: Sequence[Inputs]) -> Inputs:
    """The samples as one batch."""
    return {name: torch.cat([sample[name] for sample in samples]) for name in samples[0]}


def fingerprint(dataset: Dataset | None) -> str | None:
    """A digest of the dataset's length and values.

    A TensorDataset is read completely; of other datasets, 64 evenly spaced items, which may be
    expensive to compute.
    """
    if dataset is None:
        return None
    sha = hashlib.sha256(str(len(dataset)).encode())
    if is_plain(dataset):
        for column in dataset.tensors:
            sha.update(str(tuple(column.shape)).encode())
            sha.update(column.contiguous().numpy().tobytes())
        return sha.hexdigest()
    count = min(64, len(dataset))
    for i in range(count):
        _hash_into(sha, dataset[i * len(dataset) // count])
    return sha.hexdigest()


def _hash_into(sha: Any, item: Any) -> None:
    if isinstance(item, Mapping):
        for key in sorted(item):
            sha.update(str(key).encode())
            _hash_into(sha, item[key])
    elif isinstance(item, list | tuple):
        for part in item:
            _hash_into(sha, part)
    else:
        sha.update(torch.as_tensor(item).contiguous().numpy().tobytes())
