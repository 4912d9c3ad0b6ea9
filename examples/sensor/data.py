"""MNIST-1D: ten classes of 40-step signals, generated here, nothing downloaded.

Source: Greydanus, Kobak 2020, arXiv:2011.14439; the PyPI package mnist1d.
"""

from __future__ import annotations

import numpy as np
import torch
from mnist1d.data import get_dataset_args, make_dataset
from torch import Tensor
from torch.utils.data import TensorDataset

import edgekd

LENGTH = 40


def signals(seed: int = 42, validation_count: int = 500) -> edgekd.Data:
    """4,000 signals to learn from, `validation_count` of them held out, and 1,000 to test on."""
    args = get_dataset_args()
    args.seed = seed
    made = make_dataset(args)
    train, test = _split(made["x"], made["y"]), _split(made["x_test"], made["y_test"])
    cut = len(train[0]) - validation_count
    return edgekd.Data(
        train=TensorDataset(*(column[:cut] for column in train)),
        validation=TensorDataset(*(column[cut:] for column in train)),
        test=TensorDataset(*test),
        augment=shift,
    )


def shift(inputs: dict[str, Tensor], seeds: Tensor) -> dict[str, Tensor]:
    """Each signal rotated by as many steps as its seed gives: the digit may be anywhere."""
    steps = torch.arange(LENGTH) - (seeds % LENGTH)[:, None]
    index = (steps % LENGTH)[:, None, :]
    return {name: signal.gather(2, index.expand_as(signal)) for name, signal in inputs.items()}


def _split(signals: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.tensor(signals, dtype=torch.float32)[:, None, :], torch.tensor(labels)
