"""Reads samples from .safetensors and .npz files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from edgekd.data import Inputs, single
from edgekd.errors import Fault, RecipeError, listed
from edgekd.system.npz import read_npz


def read_samples(path: Path, names: Sequence[str] | None = None) -> list[Inputs]:
    """The samples in `path`, a batch of one each: tensors by input name, samples first.

    Args:
        names: the names of the inputs, if they are known.

    Raises:
        RecipeError: the file cannot be read, is empty, its tensors differ in length, or have
            other names.
    """
    try:
        tensors = _read(path)
        counts = {name: _count(tensor) for name, tensor in tensors.items()}
        if not counts or not min(counts.values()):
            raise ValueError("it has no samples")
        if len(set(counts.values())) > 1:
            raise ValueError(f"its tensors differ in length: {counts}")
    except Exception as error:
        raise RecipeError(
            Fault(
                what=f"{path} has no samples that can be read.",
                at=str(path),
                got=f"{type(error).__name__}: {error}",
                expected="a .safetensors or .npz with one array per input name, samples first",
                fix="write it with safetensors.torch.save_file({'image': images}, path)",
            )
        ) from error
    absent = [name for name in names or () if name not in tensors]
    if absent:
        raise RecipeError(
            Fault(
                what=f"The samples in {path} lack inputs of the network.",
                at=f"{path}, {absent[0]}",
                got=f"tensors {listed(tensors)}",
                expected=f"tensors {listed(names or ())}",
                fix=f"write it with safetensors.torch.save_file({{'{absent[0]}': samples}}, path)",
            )
        )
    return single({name: tensors[name] for name in names or tensors})


def _count(tensor: Tensor) -> int:
    if not tensor.ndim:
        raise ValueError("a tensor is a single number, not samples first")
    return len(tensor)


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".npz":
        return {name: torch.from_numpy(array) for name, array in read_npz(path).items()}
    from safetensors.torch import load_file

    return load_file(path)
