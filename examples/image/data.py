"""Handwritten digits of 8 x 8 pixels from scikit-learn, few of them labelled.

Source: Alpaydin, Kaynak 1998, UCI "Optical Recognition of Handwritten Digits", CC BY 4.0.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import TensorDataset

import edgekd


def digits(labelled: int = 100, seed: int = 0, unlabelled: bool = True) -> edgekd.Data:
    """`labelled` digits and about a thousand unlabelled ones for training, and 400 for testing.

    Args:
        unlabelled: whether to include the unlabelled digits.
    """
    images, labels = load_digits(return_X_y=True)
    image = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16.0
    label = torch.tensor(labels)
    # Tests on the last ones, as scikit-learn's examples do: no near copy is in both parts.
    test, rest = torch.arange(1397, len(label)), torch.arange(1397)
    order = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))]
    validation, train, others = order[:200], order[200 : 200 + labelled], order[200 + labelled :]
    return edgekd.Data(
        train=TensorDataset(image[train], label[train]),
        validation=TensorDataset(image[validation], label[validation]),
        test=TensorDataset(image[test], label[test]),
        unlabeled=TensorDataset(image[others]) if unlabelled else None,
        augment=shift,
        slices={f"digit {digit}": label[test] == digit for digit in range(10)},
    )


def shift(inputs: dict[str, Tensor], seeds: Tensor) -> dict[str, Tensor]:
    """Each image shifted by up to one pixel in each direction, given by its seed."""
    down, right = seeds % 3, seeds // 3 % 3
    rows, columns = down[:, None] + torch.arange(8), right[:, None] + torch.arange(8)
    moved = {}
    for name, image in inputs.items():
        padded = torch.nn.functional.pad(image, (1, 1, 1, 1))[:, 0]
        batch = torch.arange(len(image))[:, None, None]
        moved[name] = padded[batch, rows[:, :, None], columns[:, None, :]][:, None]
    return moved
