"""Data, teachers and losses that the studies of distillation and of pruning share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from _study import example
from mnist1d.data import get_dataset_args, make_dataset
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import edgekd
from edgekd.data import Inputs, Samples
from edgekd.network.network import Network, as_network
from edgekd.recipe.training import Loss, Training
from edgekd.tasks import TASKS
from edgekd.tasks.evaluate import score
from edgekd.training.train import train

TASK = TASKS["classification"]
CLASSES = 10
LABELS = Loss(method="hard", weight=0.1)
CE = (Loss(method="hard"),)
KD = (LABELS, Loss.model_validate({"method": "soft_target", "weight": 0.9, "temperature": 4.0}))

Split = tuple[Tensor, Tensor]
"""Inputs and labels."""
Augment = Callable[[Inputs, Tensor], Inputs]

signal_teacher = functools.partial(example, "sensor", "models.py:teacher")
"""The teacher of the sensor example, untrained."""
shift = functools.partial(example, "sensor", "data.py:shift")
"""The augmentation of the sensor example."""


def signals() -> list[Split]:
    """MNIST-1D: the 4,000 signals and 1,000 test signals of the sensor example, and between them
    1,000 newly generated ones for validation."""
    data = example("sensor", "data.py:signals", validation_count=0)
    args = get_dataset_args()
    args.seed, args.num_samples = 43, 1250
    new = make_dataset(args)
    validation = torch.tensor(new["x"], dtype=torch.float32)[:, None], torch.tensor(new["y"])
    return [data.train.tensors, validation, data.test.tensors]


def train_teacher(
    module: nn.Module, splits: Sequence[Split], training: Training, augment: Augment | None
) -> Network:
    """The teacher, trained on the labels of the whole train split with seed 0."""
    network = as_network(module, splits[0][0][:1])
    data = edgekd.Data(*(TensorDataset(*split) for split in splits), augment=augment)
    teacher, _ = train(network, data, training, task=TASK, metric="accuracy", seed=0)
    return teacher


def accuracy(network: Network, split: Sequence[Tensor]) -> float:
    """The share of the split that the network classifies correctly (0-1)."""
    samples = Samples(TensorDataset(*split), network.signature.input_names)
    output = network.signature.output_names[0]
    return score(network.module, output, samples, TASK, "accuracy")


def draw_labelled(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """The ids of `count` samples, equally many of each class, and the ids of all others."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = [order[labels[order] == label] for label in range(CLASSES)]
    labelled = torch.cat([ids[: count // CLASSES] for ids in by_class])
    return labelled, order[~torch.isin(order, labelled)]


def student_data(
    splits: Sequence[Split],
    labelled: Tensor,
    unlabelled: Tensor | None = None,
    augment: Augment | None = None,
) -> edgekd.Data:
    """The data of a student that has only the labels of the samples `labelled`."""
    (inputs, labels), validation, test = splits
    return edgekd.Data(
        train=TensorDataset(inputs[labelled], labels[labelled]),
        # Scored after each epoch, which no study reads; the whole split is scored at the end.
        validation=TensorDataset(*(column[:8] for column in validation)),
        test=TensorDataset(*test),
        unlabeled=None if unlabelled is None else TensorDataset(inputs[unlabelled]),
        augment=augment,
    )
